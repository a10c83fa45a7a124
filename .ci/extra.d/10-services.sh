# Tests that need services of Debian: OpenSSH's server and Slurm, on loopback addresses, stopped by the tests themselves.
set -eu
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
    echo "skipped: sshd and Slurm are installed by apt-get as root, and this is no such machine"
    exit 0
fi
folder=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m pip install -q uv > "$folder/uv" 2>&1 &
uv=$!
# Packages must not start their services: tests start their own.
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -rf "$folder" "$policy"' EXIT
fi
if ! apt-get update -q || ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    openssh-server openssh-client slurmctld slurmd slurm-client munge rsync iproute2; then
    echo "skipped: Debian's packages cannot be had here"
    exit 0
fi
wait "$uv" || echo "uv cannot be had here: its test is skipped"
PATH="$(dirname "$PYTHON"):$PATH"
export SHMOO_SERVICES=1
# Most of their time is waiting, and each part starts services of its own: all at once.
tests=(tests/harness/fleet/test_services_*.py)
running=()
for test in "${tests[@]}"; do
    timeout 300 "$PYTHON" -m pytest -q --durations=3 "$test" > "$folder/$(basename "$test")" 2>&1 &
    running+=($!)
done
failed=0
for number in "${!tests[@]}"; do
    wait "${running[number]}" || failed=1
    cat "$folder/$(basename "${tests[number]}")"
done
exit "$failed"
