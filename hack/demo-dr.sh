#!/usr/bin/env bash
# The worst day, step by step: a cluster with a virtual machine is lost for good, and
# the machine comes back in a second cluster, from nothing but the backup target. The
# bytes are compared. Runs on two sandboxes of its own, which it removes at the end.
# Usage: hack/demo-dr.sh [--keep]   --keep leaves the second sandbox running
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/demo-lib.sh
. hack/demo-lib.sh
instances=(demo-first demo-dr) # in the order in which they can be taken down
begin "$@"

say "Start two clusters with one backup target" \
  "Each is a real Kubernetes API server with Longhorn and KubeVirt, as plain processes." \
  "The S3 server belongs to the second one, so that the first can go altogether."
run bin/sandbox --name demo-dr up
run bin/sandbox --name demo-first up --s3-from demo-dr
bin/sandbox --name demo-dr kubeconfig >"$scratch/dr"
bin/sandbox --name demo-first kubeconfig >"$scratch/first"
export KUBECONFIG=$scratch/first

say "Make some virtual machines in the first cluster" \
  "Their disks hold data; the checksums are read below Longhorn."
run bin/sandbox --name demo-first seed | tee "$scratch/disks"
run kubectl get virtualmachines -n demo
expected=$(cloud_init demo web)

say "Back one of them up"
run kubectl vmbackup create web -n demo --name web-monday
run kubectl vmbackup list -n demo

say "Compare the clusters, while both are there" \
  "The plan of a restore into the other cluster. It changes nothing."
warned kubectl vmbackup restore web-monday -n demo --to-kubeconfig "$scratch/dr" --create-namespace --dry-run=client

say "Lose the first cluster" "Control plane, Longhorn, disks and records: all of it is gone."
run bin/sandbox --name demo-first down
run kubectl get virtualmachines -n demo --request-timeout 5s && fail "the first cluster still answers"

say "Bring the machine back in the second cluster" \
  "The same command as planned before. The kubeconfig still names the lost cluster," \
  "which is asked for what it may know, and not needed. Namespace and StorageClasses" \
  "are made where they are missing."
restoring=$SECONDS
warned kubectl vmbackup restore web-monday -n demo --to-kubeconfig "$scratch/dr" --create-namespace
printf '\n   From the command to the restored machine: %d s.\n' "$((SECONDS - restoring))"

export KUBECONFIG=$scratch/dr
run kubectl get virtualmachines,persistentvolumeclaims,secrets -n demo
run kubectl vmbackup list restores -n demo

say "Compare the bytes" "The restored disks against what was on them in the lost cluster."
kubectl vmbackup list restores -n demo \
  -o jsonpath='{range .items[0].status.volumes[*]}{.sourcePVC} {.pvc}{"\n"}{end}' >"$scratch/volumes"
compared=0
while read -r source restored; do
  before=$(awk -v disk="demo/$source" '$1 == disk {print $2}' "$scratch/disks")
  after=$(bin/sandbox --name demo-dr disk sha256 "demo/$restored")
  printf '\n   lost   demo/%-20s %s\n' "$source" "$before"
  printf '   here   demo/%-20s %s\n' "$restored" "$after"
  if [ -z "$before" ] || [ "$after" != "$before" ]; then fail "demo/$restored is not what demo/$source was"; fi
  compared=$((compared + 1))
done <"$scratch/volumes"
[ "$compared" -eq 2 ] || fail "$compared disks were compared, the machine has 2"
[ "$(cloud_init demo web)" = "$expected" ] || fail "the cloud-init data differs"
printf '\n   Both disks and the cloud-init data are byte for byte what was lost.\n'

done_in
