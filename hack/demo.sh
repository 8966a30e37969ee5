#!/usr/bin/env bash
# The main job, step by step: a virtual machine is backed up, its disks are
# overwritten, and the backup is restored into another namespace; the bytes are
# compared. Runs on a sandbox of its own, which it removes at the end.
# Usage: hack/demo.sh [--keep]   --keep leaves the sandbox running
set -euo pipefail
cd "$(dirname "$0")/.."

keep=${1-}
began=$SECONDS
sandbox() { bin/sandbox --name demo "$@"; }

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
  strong=$'\e[1m' plain=$'\e[0m'
else
  strong='' plain=''
fi
step=0
say() { # what the next commands do, for a reader
  step=$((step + 1))
  printf '\n%s%d. %s%s\n' "$strong" "$step" "$1" "$plain"
  shift
  for line in "$@"; do printf '   %s\n' "$line"; done
}
run() { # shows a command as a user types it, and runs it
  printf '\n%s$ %s%s\n' "$strong" "$*" "$plain"
  "$@"
}
fail() {
  printf '\n%sThe demo failed: %s%s\n' "$strong" "$1" "$plain" >&2
  exit 1
}

finish() {
  code=$?
  if [ "$code" -ne 0 ]; then
    sandbox status 2>/dev/null | awk 'NR == 1 || $3 != "ready"' >&2 || true
  fi
  if [ "$keep" = --keep ]; then
    echo "the sandbox is left running; end it with: bin/sandbox --name demo down"
  else
    sandbox down || true
  fi
  exit "$code"
}
trap finish EXIT

# The plugin as a user has it: kubectl finds kubectl-vmbackup on PATH.
export PATH=$PWD/bin:$PATH
if ! command -v kubectl >/dev/null; then
  PATH=$(dirname "$(hack/kubectl.sh)"):$PATH
fi

say "Start a sandbox" \
  "A real Kubernetes API server with Longhorn, KubeVirt and an S3 server as the" \
  "backup target, all plain processes on this machine. docs/sandbox.md says what" \
  "is real and what is a stand-in."
run sandbox up
KUBECONFIG=$(mktemp)
export KUBECONFIG
sandbox kubeconfig >"$KUBECONFIG"

say "Make a virtual machine" \
  "Two disks on Longhorn with data on them, cloud-init in a Secret; it runs."
run sandbox seed --namespace shop --vm web --volumes 2 --size 64Mi
run kubectl get virtualmachines,persistentvolumeclaims,secrets -n shop

say "Remember what is on the disks" \
  "The sandbox reads them below Longhorn, where the plugin has no part."
mapfile -t claims < <(kubectl get pvc -n shop -o name | cut -d/ -f2)
declare -A before
for claim in "${claims[@]}"; do
  before[$claim]=$(sandbox disk sha256 "shop/$claim")
  printf '   %s  %s\n' "${before[$claim]}" "$claim"
done

say "See what a backup would do" "A plan changes nothing."
run kubectl vmbackup create web -n shop --name web-monday --dry-run=client

say "Back the machine up" \
  "The guest's file systems are frozen, all disks are snapshotted at once, the guest" \
  "goes on, Longhorn uploads; then the target itself is asked what lies there."
run kubectl vmbackup create web -n shop --name web-monday

say "Look at the backup"
run kubectl vmbackup list -n shop
run kubectl vmbackup describe web-monday -n shop

say "Lose the data" "Every disk of the machine is overwritten."
for claim in "${claims[@]}"; do
  run sandbox disk write "shop/$claim" --seed accident --size 1048576
done

say "Restore into another namespace, under another name" \
  "The machine that exists is not touched."
run kubectl create namespace shop-test
run kubectl vmbackup restore web-monday -n shop --to-namespace shop-test --to-name web-copy
run kubectl get virtualmachines,persistentvolumeclaims,secrets -n shop-test

say "Compare the bytes" "The restored disks against what was on the originals at the time of the backup."
compared=0
while IFS='=' read -r source restored; do
  after=$(sandbox disk sha256 "shop-test/$restored")
  printf '   %s  %s (from %s)\n' "$after" "$restored" "$source"
  [ "$after" = "${before[$source]}" ] || fail "shop-test/$restored differs from shop/$source as it was: ${before[$source]}"
  compared=$((compared + 1))
done < <(kubectl vmbackup list restores -n shop-test \
  -o jsonpath='{range .items[0].status.volumes[*]}{.sourcePVC}={.pvc}{"\n"}{end}')
[ "$compared" -eq ${#claims[@]} ] || fail "$compared disks were compared, the machine has ${#claims[@]}"
now=$(sandbox disk sha256 "shop/${claims[0]}")
[ "$now" != "${before[${claims[0]}]}" ] || fail "the original was not overwritten, so the comparison proves nothing"
echo "   All $compared disks are byte for byte what was backed up."

say "Delete the backup" "The data on the target goes too, after a question on a terminal; --yes answers it."
run kubectl vmbackup delete web-monday -n shop --yes
run kubectl vmbackup list -n shop

printf '\n%sDone in %d s.%s\n' "$strong" "$((SECONDS - began))" "$plain"
