# The GitHub and GitLab workflows of docs/gate.md, step by step in a fresh environment; they measure a small model.
set -eu
"$PYTHON" -m pip install -q pyyaml
SHMOO_WORKFLOWS=1 timeout 500 "$PYTHON" -m pytest -q tests/harness/cli/test_workflows.py
