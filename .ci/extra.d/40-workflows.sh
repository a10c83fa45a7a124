# The workflows of docs/gate.md, step by step in a fresh environment, as GitHub and GitLab run them.
set -eu
SHMOO_WORKFLOWS=1 timeout 900 "$PYTHON" -m pytest -q tests/harness/cli/test_workflows.py
