#!/usr/bin/env bash
# Installs the Debian packages that building and testing need and that are
# missing; does nothing when all are there. Go itself is expected.
set -euo pipefail

# package|why
packages='ca-certificates|TLS to the Go module proxy
gcc|cgo: the race detector and the Longhorn engine
git|the version of a build and the list of tracked files
iproute2|network namespaces of the sandbox (ip)
libc6-dev|cgo
libqcow-dev|Longhorn engine: reads qcow backing images
make|this Makefile
mount|mounts inside the namespaces of the sandbox
procps|the sandbox looks at its processes (ps)
qemu-utils|Longhorn backing images (qemu-img)
shellcheck|lint of the shell scripts
util-linux|namespaces of the sandbox (unshare, nsenter)
zlib1g-dev|Longhorn engine: compression'

if ! command -v go >/dev/null; then
  echo "go is not on PATH: install Go $(sed -n 's/^go //p' "$(dirname "$0")/../go.mod") or newer first" >&2
  exit 1
fi
if ! command -v dpkg-query >/dev/null; then
  echo "this is no Debian: install the equivalents of these packages yourself:" >&2
  printf '%s\n' "$packages" | tr '|' '\t' >&2
  exit 1
fi

missing=()
while IFS='|' read -r package why; do
  if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
    echo "missing: $package ($why)"
    missing+=("$package")
  fi
done <<<"$packages"

if [ ${#missing[@]} -eq 0 ]; then
  echo "all packages are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
