#!/usr/bin/env bash
# Runs every fuzz test for a time each; their seeds run with the unit tests anyway.
# What is found is kept below the package's testdata/fuzz and runs from then on.
# Usage: hack/fuzz.sh [FUZZTIME [NAME]]   e.g. hack/fuzz.sh 60s FuzzDecode
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${1:-30s}
wanted=${2:-}
failed=0
while IFS=: read -r file line; do
  name=$(sed -E 's/^func (Fuzz[A-Za-z0-9]+)\(.*/\1/' <<<"$line")
  [[ $name == *$wanted* ]] || continue
  package=./$(dirname "$file")
  echo "==> $package $name ($fuzztime)"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package" || failed=1
done < <(git grep -E '^func Fuzz[A-Za-z0-9]+\(' -- '*_test.go' ':!sandbox')
exit "$failed"
