#!/usr/bin/env bash
# Beside Harvester, step by step: a backup that Harvester has made is followed,
# shown and restored with what Harvester would drop; a backup of the plugin is seen
# and restored by Harvester; a schedule is made, looked at and suspended. The bytes of
# every restored disk are compared. Runs on a sandbox of its own with Harvester's own
# controllers and webhooks, which it removes at the end.
# Usage: hack/demo-harvester.sh [--keep]   --keep leaves the sandbox running
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=hack/demo-lib.sh
. hack/demo-lib.sh
instances=(demo-harvester)
begin "$@"

same() { # NAMESPACE/CLAIM NAMESPACE/SOURCE: the restored disk is what its source was
  before=$(awk -v disk="$2" '$1 == disk {print $2}' "$scratch/disks")
  after=$(sandbox disk sha256 "$1")
  printf '   %-44s %s\n' "$1" "$after"
  if [ -z "$before" ] || [ "$after" != "$before" ]; then
    fail "$1 is not what $2 was ($before)"
  fi
}
harvester() { # KIND NAME: an object of Harvester, as its UI makes it
  printf 'apiVersion: harvesterhci.io/v1beta1\nkind: %s\nmetadata: {name: %s, namespace: demo}\nspec:\n' "$1" "$2"
  cat
}

say "Start a sandbox with Harvester" \
  "Harvester's controllers of backups, restores, schedules and images and all its" \
  "webhooks, beside Longhorn, KubeVirt and an S3 server: plain processes on this machine."
run bin/sandbox --name "${instances[0]}" up --profile harvester
export KUBECONFIG=$scratch/admin
sandbox kubeconfig >"$KUBECONFIG"
run kubectl vmbackup version

say "Make a virtual machine" \
  "Its disks lie on Longhorn and hold data; the checksums are read below Longhorn," \
  "where neither Harvester nor the plugin has a part."
run kubectl create -f hack/demo-harvester.yaml
for claim in web-root web-content; do
  run bin/sandbox --name "${instances[0]}" disk write "demo/$claim" --seed "$claim" --size 4194304
  printf 'demo/%s %s\n' "$claim" "$(sandbox disk sha256 "demo/$claim")" | tee -a "$scratch/disks"
done
run kubectl wait virtualmachines/web -n demo --for=jsonpath='{.status.printableStatus}'=Running --timeout=3m
run kubectl get virtualmachines -n demo --show-labels

say "Harvester makes a backup" "This is what the button in its UI creates."
harvester VirtualMachineBackup from-the-ui >"$scratch/backup.yaml" <<'YAML'
  type: backup
  source: {apiGroup: kubevirt.io, kind: VirtualMachine, name: web}
YAML
apply "$scratch/backup.yaml"

say "Follow it to its end" \
  "Harvester calls a backup ready once its snapshots are. The plugin says Ready when" \
  "Longhorn shows every upload as completed, and the description is on the target."
warned kubectl vmbackup watch from-the-ui -n demo
run kubectl vmbackup list -n demo --from all
run kubectl vmbackup describe from-the-ui -n demo

say "Restore it with everything" \
  "Harvester's own restore of it as a new machine drops labels and annotations. The" \
  "plugin restores the same backup into another namespace, and they are there."
warned kubectl vmbackup restore from-the-ui -n demo --to-namespace restored --to-name web-copy
run kubectl get virtualmachines -n restored --show-labels
told() { kubectl get virtualmachine "$2" -n "$1" -o jsonpath='{.metadata.labels.team} {.metadata.annotations.example\.com/owner}'; }
[ "$(told restored web-copy)" = "storefront ann@example.com" ] || fail "labels and annotations did not come back"
kubectl vmbackup list restores -n restored \
  -o jsonpath='{range .items[0].status.volumes[*]}{.sourcePVC} {.pvc}{"\n"}{end}' >"$scratch/volumes"
printf '\n'
compared=0
while read -r source restored; do
  same "restored/$restored" "demo/$source"
  compared=$((compared + 1))
done <"$scratch/volumes"
[ "$compared" -eq 2 ] || fail "$compared disks were compared, the machine has 2"
printf '   Both disks are byte for byte what was backed up.\n'

say "The plugin makes a backup by itself, and Harvester has it too" \
  "What lies on the target is in Harvester's own format."
warned kubectl vmbackup create web -n demo --name from-the-plugin --engine direct
run kubectl wait virtualmachinebackups.harvesterhci.io/from-the-plugin -n demo --for=create --timeout=3m
run kubectl wait virtualmachinebackups.harvesterhci.io/from-the-plugin -n demo --for=jsonpath='{.status.readyToUse}'=true --timeout=3m
run kubectl get virtualmachinebackups.harvesterhci.io -n demo

say "Harvester restores the plugin's backup" "As a new machine, by its own controllers."
harvester VirtualMachineRestore by-harvester >"$scratch/restore.yaml" <<'YAML'
  newVM: true
  virtualMachineBackupName: from-the-plugin
  virtualMachineBackupNamespace: demo
  target: {apiGroup: kubevirt.io, kind: VirtualMachine, name: web-by-harvester}
YAML
apply "$scratch/restore.yaml"
run kubectl wait virtualmachinerestores.harvesterhci.io/by-harvester -n demo --for=jsonpath='{.status.complete}'=true --timeout=5m
kubectl get virtualmachinerestores.harvesterhci.io by-harvester -n demo \
  -o jsonpath='{range .status.restores[*]}{.volumeName} {.persistentVolumeClaimSpec.metadata.name}{"\n"}{end}' >"$scratch/volumes"
kubectl get virtualmachine web -n demo \
  -o jsonpath='{range .spec.template.spec.volumes[*]}{.name} {.persistentVolumeClaim.claimName}{.dataVolume.name}{"\n"}{end}' >"$scratch/sources"
printf '\n'
while read -r volume restored; do
  same "demo/$restored" "demo/$(awk -v volume="$volume" '$1 == volume {print $2}' "$scratch/sources")"
done <"$scratch/volumes"

say "Back it up every night" \
  "Harvester keeps the schedule. Its rules are explained before it refuses."
refused=0
run kubectl vmbackup schedule create web -n demo --cron '*/10 * * * *' || refused=$?
[ "$refused" -eq 4 ] || fail "a schedule of every ten minutes ended with exit code $refused, not 4"
run kubectl vmbackup schedule create web -n demo --cron '0 3 * * *' --retain 7
run kubectl vmbackup schedule list -n demo

say "Have it due now" \
  "Harvester makes a backup when Kubernetes notes that the CronJob was due. Nobody" \
  "waits for three o'clock here: the note is made by hand."
job=svmb-$(kubectl get schedulevmbackups.harvesterhci.io web -n demo -o jsonpath='{.metadata.uid}')
run kubectl patch cronjobs.batch "$job" -n harvester-system --subresource status --type merge \
  -p "{\"status\":{\"lastScheduleTime\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"}}"
run kubectl wait schedulevmbackups.harvesterhci.io/web -n demo --for=jsonpath='{.status.vmbackupInfo[0].readyToUse}'=true --timeout=5m
run kubectl vmbackup schedule describe web -n demo

say "Suspend it, and delete it" "The backups that it made stay; that is said before."
run kubectl vmbackup schedule suspend web -n demo
run kubectl vmbackup schedule list -n demo
run kubectl vmbackup schedule delete web -n demo --yes
run kubectl vmbackup list -n demo

done_in
