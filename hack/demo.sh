#!/usr/bin/env bash
# The main job, step by step: a virtual machine is backed up, its disks are
# overwritten, and the backup is restored into another namespace; the bytes are
# compared. Runs on a sandbox of its own, which it removes at the end.
# Usage: hack/demo.sh [--keep]   --keep leaves the sandbox running
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=hack/demo-lib.sh
. hack/demo-lib.sh
instances=(demo)
begin "$@"

say "Start a sandbox" \
  "A real Kubernetes API server with Longhorn, KubeVirt and an S3 server as the" \
  "backup target, all plain processes on this machine. sandbox/README.md says what" \
  "is real and what is a stand-in."
run bin/sandbox --name demo up
export KUBECONFIG=$scratch/admin
sandbox kubeconfig >"$KUBECONFIG"

say "Make some virtual machines" \
  "web and db run, legacy is switched off; their disks lie on Longhorn and hold data." \
  "The checksums are read below Longhorn, where the plugin has no part."
run bin/sandbox --name demo seed | tee "$scratch/disks"
run kubectl get virtualmachines,persistentvolumeclaims,secrets -n demo -l app=web

say "Give a user the rights" \
  "alice gets the roles of docs/rbac.yaml and nothing more; from here on she acts."
run kubectl apply -f docs/rbac.yaml
run kubectl create rolebinding vmbackup -n demo --clusterrole vmbackup-machines --user alice
run kubectl create rolebinding vmbackup -n restored --clusterrole vmbackup-machines --user alice
run kubectl create rolebinding vmbackup -n longhorn-system --clusterrole vmbackup-longhorn --user alice
run kubectl create clusterrolebinding vmbackup --clusterrole vmbackup-cluster --user alice
sandbox kubeconfig --user alice >"$scratch/alice"
export KUBECONFIG=$scratch/alice
run kubectl auth whoami

say "Back one of them up" \
  "The guest's file systems are frozen, its disks are snapshotted at once, the guest" \
  "goes on, Longhorn uploads; then the target itself is asked what lies there."
run kubectl vmbackup create web -n demo --name web-monday

say "Look at the backup"
run kubectl vmbackup list -n demo
run kubectl vmbackup describe web-monday -n demo

say "Lose the data" "Both disks of the machine are overwritten."
for claim in web-root web-content; do
  run bin/sandbox --name demo disk write "demo/$claim" --seed accident --size 1048576
done

say "See what a restore would do" "A plan changes nothing."
warned kubectl vmbackup restore web-monday -n demo --to-namespace restored --to-name web-copy --dry-run=client

say "Restore into another namespace, under another name" \
  "The machine that exists is not touched."
warned kubectl vmbackup restore web-monday -n demo --to-namespace restored --to-name web-copy
run kubectl get virtualmachines,persistentvolumeclaims,secrets -n restored

say "Compare the bytes" \
  "The restored disks against what was on the originals at the time of the backup."
kubectl vmbackup list restores -n restored \
  -o jsonpath='{range .items[0].status.volumes[*]}{.sourcePVC} {.pvc}{"\n"}{end}' >"$scratch/volumes"
compared=0
while read -r source restored; do
  before=$(awk -v disk="demo/$source" '$1 == disk {print $2}' "$scratch/disks")
  now=$(sandbox disk sha256 "demo/$source")
  after=$(sandbox disk sha256 "restored/$restored")
  printf '\n   demo/%-24s at the backup  %s\n' "$source" "$before"
  printf '   demo/%-24s now            %s\n' "$source" "$now"
  printf '   restored/%-20s now            %s\n' "$restored" "$after"
  [ "$now" != "$before" ] || fail "demo/$source was not overwritten, so the comparison proves nothing"
  [ "$after" = "$before" ] || fail "restored/$restored is not what demo/$source was"
  compared=$((compared + 1))
done <"$scratch/volumes"
[ "$compared" -eq 2 ] || fail "$compared disks were compared, the machine has 2"
[ "$(cloud_init demo web)" = "$(cloud_init restored web-copy)" ] || fail "the cloud-init data differs"
printf '\n   Both disks and the cloud-init data are byte for byte what was backed up.\n'

say "Delete the backup" \
  "Its data on the target goes too. On a terminal the command asks first; --yes answers."
run kubectl vmbackup delete web-monday -n demo --yes
run kubectl vmbackup list -n demo

done_in
