# Tests that need services of Debian: OpenSSH's server and Slurm, on loopback addresses, stopped by the tests themselves.
set -eu
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
    echo "skipped: sshd and Slurm are installed by apt-get as root, and this is no such machine"
    exit 0
fi
# Packages must not start their services: tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
if ! apt-get update -q || ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    openssh-server openssh-client slurmctld slurmd slurm-client munge rsync iproute2; then
    echo "skipped: Debian's packages cannot be had here"
    exit 0
fi
"$PYTHON" -m pip install -q uv || echo "uv cannot be had here: its test is skipped"
PATH="$(dirname "$PYTHON"):$PATH"
SHMOO_SERVICES=1 timeout 300 "$PYTHON" -m pytest -q tests/harness/fleet/test_services.py
