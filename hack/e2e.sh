#!/usr/bin/env bash
# Runs the end-to-end tests (build tag e2e). They start the sandboxes that they
# need; when they fail, the ends of the sandboxes' logs are shown.
# Usage: hack/e2e.sh [ARG...]   arguments go to go test (e.g. -run TestName)
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t packages < <(git grep -lE '^//go:build e2e' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
if [ ${#packages[@]} -eq 0 ]; then
  echo "no end-to-end test is tracked" >&2
  exit 1
fi
if ! go test -tags e2e -count=1 -v -timeout 45m "$@" "${packages[@]}"; then
  hack/sandbox-logs.sh
  exit 1
fi
