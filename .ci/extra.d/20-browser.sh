# Pages in Debian's Chromium.
set -eu
if ! command -v chromium > /dev/null; then
    if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
        echo "skipped: Chromium is installed by apt-get as root, and this is no such machine"
        exit 0
    fi
    if ! apt-get update -q || ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; then
        echo "skipped: Debian's Chromium cannot be had here"
        exit 0
    fi
fi
PIP_CONSTRAINT=constraints.txt "$PYTHON" -m pip install -q -e ".[test,browser]"
timeout 300 "$PYTHON" -m pytest -q tests/browser
