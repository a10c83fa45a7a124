"""Workloads by name: operators, synthetic models, and networks of torchvision, transformers and diffusion; suites of them.

Capturing a workload belongs in capture. Importing this package does not import torch.
"""

from shmoo.harness.module import WORKLOADS, DNNModule
from shmoo.harness.workloads.loading import find_workload, resolve_model
from shmoo.harness.workloads.suites import NETWORKS, SUITES, plan_suite

__all__ = ["NETWORKS", "SUITES", "WORKLOADS", "DNNModule", "find_workload", "plan_suite", "resolve_model"]
