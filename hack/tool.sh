#!/usr/bin/env bash
# Builds a tool from its sources, at the version that a module under hack/tools
# pins, and prints the path of the program. Builds once per pin and Go version.
# Usage: hack/tool.sh MODULE_FOLDER PACKAGE [LINKER_FLAGS]
set -euo pipefail
cd "$(dirname "$0")/.."

module=$1
package=$2
flags="-s -w ${3-}"
program=$PWD/bin/tools/${package##*/}
pin=$({ cat "$module/go.mod" "$module/go.sum"; go env GOVERSION; echo "$flags"; } | sha256sum)
if [ ! -x "$program" ] || [ "$(cat "$program.pin" 2>/dev/null)" != "$pin" ]; then
  echo "building $package from the pins in $module (once)" >&2
  CGO_ENABLED=0 go build -C "$module" -trimpath -ldflags "$flags" -o "$program" "$package" >&2
  echo "$pin" >"$program.pin"
fi
echo "$program"
