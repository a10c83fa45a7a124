"""Held-out errors on whole models: `python -m shmoo.harness.evaluate_models DATA_DIR`.

DATA_DIR holds `gpu_models.csv`, `model_configs/` and `gpu_ops/`. Each model is captured from its config as it was measured: in
eager execution, attention as separate products and softmax, keys and values kept, no gradients.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from shmoo.calibrate.evaluate import Result, report
from shmoo.calibrate.evaluate_models import MeasuredModel, evaluate
from shmoo.calibrate.publish import keep
from shmoo.estimators.errors import InputError
from shmoo.estimators.records import Graph
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.workloads.loading import load_config
from shmoo.harness.workloads.module import Built

MEASURED_AS = MappingProxyType({"BertLMHeadModel": "BertForSequenceClassification"})
"""Architecture that a config names -> the one that was measured, where that is another."""


def eager_model(path: Path, batch: int, seq_len: int, dtype: str = "float32") -> Built:
    """A transformer as the table measured it, on the meta device: it has shapes and no weights.

    Raises:
        InputError: the config cannot be used.
    """
    if not path.is_file():
        raise InputError(f"no config at {str(path)!r}; DATA_DIR is the folder that holds model_configs")
    settings = json.loads(path.read_text())
    named = settings["architectures"][0]
    settings |= {"architectures": [MEASURED_AS.get(named, named)], "attn_implementation": "eager"}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / path.name
        changed.write_text(json.dumps(settings))
        built = load_config(str(changed)).build({"batch": batch, "seq_len": seq_len}, dtype, "meta")
    # The library of the time added a mask of ones where it was given none; the present one leaves the addition out.
    tokens = built.kwargs["input_ids"]
    return Built(built.model, (), {**built.kwargs, "attention_mask": tokens.new_ones(tokens.shape)})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns what `report` does."""
    parser = argparse.ArgumentParser(prog="python -m shmoo.harness.evaluate_models", description="Print errors on whole models.")
    parser.add_argument("folder", type=Path, help="folder of the reference tables")
    parser.add_argument("--keep", action="store_true", help="write the numbers into the error cards of built-in profiles")
    asked = parser.parse_args(arguments)
    folder = asked.folder

    def graphs_of(row: MeasuredModel) -> Sequence[Graph]:
        built = eager_model(folder / "model_configs" / f"{row.model}.json", row.batch, row.seq_len, row.dtype)
        return capture_traced(built.model, built.args, built.kwargs, name=row.model).graphs

    def results() -> list[Result]:
        found = evaluate(folder, graphs_of)
        if asked.keep:
            keep(found)
        return found

    return report(results)


if __name__ == "__main__":
    sys.exit(main())
