#!/usr/bin/env bash
# Runs the tests on real sandboxes, which they start and end themselves: the
# sandbox's own (build tag sandbox, in its module), those of the plugin (build tag
# e2e), and those of the plugin beside Harvester's controllers. Needs root. When a
# test fails, the ends of the components' logs and then what the failed tests have
# said come last.
# Usage: hack/e2e.sh [ARG...]   arguments go to go test (e.g. -run TestName)
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
  echo "sandboxes make namespaces and mounts: run this as root" >&2
  exit 1
fi
output=$(mktemp)
sandbox=$(mktemp)
harvester=$(mktemp)
trap 'rm -f "$output" "$sandbox" "$harvester"' EXIT
failed=0
# Tests that need Harvester built are for whoever has built it; here they never skip.
export SANDBOX_HARVESTER=1
mapfile -t packages < <(git grep -lE '^//go:build e2e' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
e2e() { go test -tags e2e -count=1 -v -timeout 40m -parallel 6 "$@" "${packages[@]}"; }

# Most of the time is waiting for controllers: all sets run side by side, and more
# tests at once than cores.
go -C sandbox test -tags sandbox -count=1 -v -timeout 40m "$@" ./test/... >"$sandbox" 2>&1 &
besides=($!)
if [ $# -eq 0 ]; then
  e2e -run '^TestHarvester' >"$harvester" 2>&1 &
  besides+=($!)
  set -- -skip '^TestHarvester'
  whole=1
fi
e2e "$@" 2>&1 | tee "$output" || failed=1
for beside in "${besides[@]}"; do
  wait "$beside" || failed=1
done
cat "$harvester" "$sandbox"
if [ -n "${whole-}" ]; then
  for log in "$harvester" "$sandbox"; do
    grep -q '^--- \(PASS\|FAIL\): TestHarvester ' "$log" || {
      echo "--- FAIL: the tests beside Harvester did not run" | tee -a "$log"
      failed=1
    }
  done
fi
cat "$harvester" "$sandbox" >>"$output"
if [ "$failed" -ne 0 ]; then
  hack/sandbox-logs.sh || true
  awk -f hack/failures.awk "$output"
fi
exit "$failed"
