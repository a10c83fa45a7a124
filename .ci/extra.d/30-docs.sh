# The site, built strictly: a dead link or a page outside the navigation is an error.
set -eu
PIP_CONSTRAINT=constraints.txt "$PYTHON" -m pip install -q -e ".[test,docs]"
# Not in the root, whose folder shmoo would be taken for the whole package.
(cd docs/site && NO_MKDOCS_2_WARNING=1 timeout 180 "$PYTHON" -m mkdocs build --strict --quiet -d "$(mktemp -d)")
timeout 300 "$PYTHON" -m pytest -q tests/test_notebooks.py
