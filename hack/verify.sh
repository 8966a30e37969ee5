#!/usr/bin/env bash
# Cheap checks that need no build: formatting, tidy modules, licence lines,
# every direct dependency explained, nothing of one machine in the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# check NAME FINDINGS: fails the run when there are findings.
check() {
  if [ -z "$2" ]; then
    echo "ok    $1"
  else
    printf 'FAIL  %s\n%s\n' "$1" "$2" | head -60
    failed=1
  fi
}

# git ls-files still names a file that was removed but not yet committed.
tracked() { git ls-files -z "$@" | xargs -0 -r ls -d 2>/dev/null || true; }

mapfile -t gofiles < <(tracked '*.go')

check "gofmt" "$(gofmt -l "${gofiles[@]}")"

unlicensed=$(for f in "${gofiles[@]}"; do
  head -2 "$f" | tr '\n' '|' |
    grep -qxF '// Copyright The kubectl-vmbackup Authors.|// SPDX-License-Identifier: Apache-2.0|' || echo "$f"
done)
check "licence lines" "$unlicensed"

for module in . sandbox hack/tools hack/tools/krew hack/tools/kubectl; do
  check "go mod tidy: $module" "$(go -C "$module" mod tidy -diff 2>&1 | grep -v '^go: downloading' || true)"
done

# Every direct requirement has its line in docs/dependencies.md.
for module in . sandbox; do
  unexplained=$(go -C "$module" mod edit -json |
    awk '/"Require"/ {on=1} /"Replace"|"Tool"|"Exclude"/ {on=0}
         on && /"Path"/ {gsub(/[",]/, "", $2); path=$2}
         on && /"Indirect": true/ {path=""}
         on && /}/ {if (path != "") print path; path=""}' |
    while read -r path; do grep -qF "\`$path\`" docs/dependencies.md || echo "$path"; done)
  check "docs/dependencies.md explains: $module" "$unexplained"
done

# And every module that the tables list is there to be listed.
# shellcheck disable=SC2016 # the backquotes are those of the table
unused=$(sed -n '/^## Tools/q; s/^| `\([^`]*\)` .*/\1/p' docs/dependencies.md | sort -u |
  while read -r path; do grep -qE "^(require )?[[:space:]]*$path v[^ ]*$" go.mod sandbox/go.mod || echo "$path"; done)
check "docs/dependencies.md lists nothing that is not used" "$unused"

# Nothing of one machine or one network: the tree must build anywhere. What the
# machine is and where its packages come from is asked of the machine; go.sum
# holds only hashes.
mapfile -t texts < <(tracked | grep -vE '(^|/)go\.sum$')
hosts=$({
  go env GOPROXY | sed 's/[,|]/\n/g'
  npm config get registry
  grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d
} 2>/dev/null | sed -nE 's#^https?://([^/:]+).*#\1#p' | sort -u | sed 's/[.]/[.]/g' | paste -sd'|' - || true)
foreign=$(grep -nIE "$HOME/|$PWD/|/home/[a-z]${hosts:+|$hosts}" "${texts[@]}" || true)
check "no machine paths or registry hosts" "$foreign"

# Relative links of the documents lead somewhere.
dead=$(for f in $(tracked '*.md'); do
  { grep -oE '\]\([^)#: ]+[)#]' "$f" || true; } | sed -E 's/^\]\(//; s/[)#]$//' | while read -r link; do
    [ -e "$(dirname "$f")/$link" ] || echo "$f: $link"
  done
done)
check "links of the documents" "$dead"

exit "$failed"
