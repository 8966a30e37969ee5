#!/usr/bin/env bash
# Runs the tests on real sandboxes, which they start and end themselves: the
# sandbox's own (build tag sandbox, in its module) and those of the plugin
# (build tag e2e). Needs root. When a test fails, the ends of the components' logs
# and then what the failed tests have said come last.
# Usage: hack/e2e.sh [ARG...]   arguments go to go test (e.g. -run TestName)
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
  echo "sandboxes make namespaces and mounts: run this as root" >&2
  exit 1
fi
output=$(mktemp)
sandbox=$(mktemp)
trap 'rm -f "$output" "$sandbox"' EXIT
failed=0
# Most of the time is waiting for controllers: both sets run side by side, and more
# tests at once than cores.
go -C sandbox test -tags sandbox -count=1 -v -timeout 30m "$@" ./test/... >"$sandbox" 2>&1 &
beside=$!

mapfile -t packages < <(git grep -lE '^//go:build e2e' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
if [ ${#packages[@]} -gt 0 ]; then
  go test -tags e2e -count=1 -v -timeout 40m -parallel 6 "$@" "${packages[@]}" 2>&1 | tee "$output" || failed=1
fi
wait "$beside" || failed=1
cat "$sandbox"
cat "$sandbox" >>"$output"
if [ "$failed" -ne 0 ]; then
  hack/sandbox-logs.sh || true
  awk -f hack/failures.awk "$output"
fi
exit "$failed"
