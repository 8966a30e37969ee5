#!/usr/bin/env bash
# Checks the krew manifest with krew's own validator, then installs the archives
# of `make dist` with krew itself, for every platform, and runs the one for this
# machine. Nothing is downloaded: krew takes the archive from dist/.
# Usage: hack/verify-krew.sh
set -euo pipefail
cd "$(dirname "$0")/.."

krew=$(hack/tool.sh hack/tools/krew sigs.k8s.io/krew/cmd/krew)
validate=$(hack/tool.sh hack/tools/krew sigs.k8s.io/krew/cmd/validate-krew-manifest)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# krew wants the file to have the plugin's name.
cp krew-manifest.yaml "$scratch/vmbackup.yaml"
"$validate" -skip-install -manifest "$scratch/vmbackup.yaml"

make --no-print-directory dist
"$validate" -skip-install -manifest dist/vmbackup.yaml

install() { # OS ARCH ARCHIVE
  KREW_ROOT=$scratch/$1-$2 KREW_OS=$1 KREW_ARCH=$2 \
    "$krew" install --manifest dist/vmbackup.yaml --archive "$3" >"$scratch/log" 2>&1 ||
    { cat "$scratch/log" >&2; return 1; }
  echo "krew installed $3"
}
for archive in dist/kubectl-vmbackup_*; do
  IFS=_ read -r _ os arch <<<"${archive%%.*}"
  install "$os" "$arch" "$archive"
done

here=$scratch/$(go env GOHOSTOS)-$(go env GOHOSTARCH)
"$here/bin/kubectl-vmbackup" version --client
echo "krew: the installed plugin runs"

# The archive must be what the manifest says: one changed byte is refused.
mkdir "$scratch/changed"
cp "dist/kubectl-vmbackup_$(go env GOHOSTOS)_$(go env GOHOSTARCH)".* "$scratch/changed/"
printf x >>"$(echo "$scratch"/changed/*)"
if KREW_ROOT=$scratch/refused "$krew" install --manifest dist/vmbackup.yaml \
  --archive "$(echo "$scratch"/changed/*)" >"$scratch/log" 2>&1; then
  echo "krew installed an archive with a wrong digest" >&2
  exit 1
fi
grep -qi checksum "$scratch/log"
echo "krew: a changed archive is refused"
