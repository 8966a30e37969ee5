#!/usr/bin/env bash
# Runs the end-to-end tests (build tag e2e). They start the sandboxes that they
# need; when they fail, the ends of the sandboxes' logs are shown.
# Usage: hack/e2e.sh [ARG...]   arguments go to go test (e.g. -run TestName)
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t packages < <(go list -tags e2e -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./test/...)
if ! go test -tags e2e -count=1 -v -timeout 45m "$@" "${packages[@]}"; then
  hack/sandbox-logs.sh
  exit 1
fi
