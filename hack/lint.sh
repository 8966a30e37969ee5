#!/usr/bin/env bash
# Lints the Go of both modules and the shell scripts. golangci-lint is built
# from the versions pinned in hack/tools, once per pin.
# Usage: hack/lint.sh [ARG...]   arguments go to golangci-lint (e.g. --fix)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
echo "shellcheck: ${#scripts[@]} scripts"
shellcheck "${scripts[@]}"

linter=$(hack/tool.sh hack/tools github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

# As make builds, so that the linter finds the dependencies in the build cache.
export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'
failed=0
for module in . sandbox; do
  echo "golangci-lint: module $module"
  (cd "$module" && "$linter" run --config "$root/.golangci.yml" "$@" ./...) || failed=1
done
exit "$failed"
