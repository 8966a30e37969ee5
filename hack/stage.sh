#!/usr/bin/env bash
# Runs one stage of a longer run, says how long it took, and appends
# "<stage> <seconds> <exit code>" to bin/timings.tsv.
# Usage: hack/stage.sh NAME COMMAND [ARG...]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

name=$1
shift
printf '\n==> %s: %s\n' "$name" "$*"
began=$SECONDS
"$@"
code=$?
took=$((SECONDS - began))
mkdir -p bin
printf '%s\t%d\t%d\n' "$name" "$took" "$code" >>bin/timings.tsv
if [ "$code" -eq 0 ]; then
  printf '==> %s: passed in %d s\n' "$name" "$took"
else
  printf '==> %s: FAILED with exit code %d after %d s\n' "$name" "$code" "$took" >&2
fi
exit "$code"
