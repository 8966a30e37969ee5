#!/usr/bin/env bash
# Shows the ends of the sandboxes' component logs, what looks like a
# credential blanked, so that a failed run on another machine can be understood.
# Usage: hack/sandbox-logs.sh [LINES]
set -euo pipefail
cd "$(dirname "$0")/.."

lines=${1:-12}
find .sandbox -path '*/logs/*.log' -size +0 2>/dev/null | sort | while read -r log; do
  printf '\n--- %s\n' "$log"
  tail -n "$lines" "$log" | cut -c1-400 |
    sed -E 's/((token|secret|password|accesskey|access_key|credential|authorization)[^[:space:]=:]*["'\'']?[=:][[:space:]]*)[^[:space:],]+/\1[blanked]/Ig'
done
