// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/enginetest"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/harvester"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// What a cluster may have of Harvester.
var (
	absent  = hv.Presence{Controllers: hv.Unclear}
	alive   = hv.Presence{Served: true, Controllers: hv.Alive}
	dead    = hv.Presence{Served: true, Controllers: hv.Dead, Why: "its lease expired"}
	unclear = hv.Presence{Served: true, Controllers: hv.Unclear}
)

// cluster is an API server with one machine of one volume. No controller works on it:
// which engine was asked is seen in what it begins.
type cluster struct {
	*enginetest.APIServer
	t        *testing.T
	journal  journal.Store
	store    target.Store
	presence hv.Presence
	// lookErr is what the look for Harvester ends in, and looks counts how often there was one.
	lookErr error
	looks   int
	// halts is a Harvester that can leave a machine off. The API server of one that
	// cannot, before 1.9, drops the field.
	halts bool
}

func decoded(t *testing.T, format string, args ...any) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(fmt.Appendf(nil, format, args...), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// newCluster is a cluster with as much of Harvester as presence says.
func newCluster(t *testing.T, presence hv.Presence) *cluster {
	t.Helper()
	c := &cluster{APIServer: enginetest.NewAPIServer(t), t: t, presence: presence, journal: journal.NewMemory(), store: target.NewMemory(time.Now)}
	c.Refuse = func(resource string, o *unstructured.Unstructured) error {
		if resource == hv.RestoreResource && !c.halts {
			unstructured.RemoveNestedField(o.Object, "spec", "haltAfterRestore")
		}
		return nil
	}
	for resource, object := range map[string]string{
		"namespaces": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"demo"}}`,
		"virtualmachines": `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo"},
			"spec":{"runStrategy":"Always","template":{"spec":{"domain":{"devices":{}},"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":"web-root"}}]}}}}`,
		"virtualmachineinstances": `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"web","namespace":"demo"},
			"status":{"phase":"Running","conditions":[{"type":"AgentConnected","status":"True"}]}}`,
		"persistentvolumeclaims": `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"web-root","namespace":"demo"},
			"spec":{"accessModes":["ReadWriteMany"],"storageClassName":"longhorn","volumeName":"pvc-root","resources":{"requests":{"storage":"1Gi"}}},"status":{"phase":"Bound"}}`,
		"persistentvolumes": `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pvc-root"},"spec":{"csi":{"driver":"driver.longhorn.io","volumeHandle":"pvc-root"}}}`,
		"volumes": `{"apiVersion":"longhorn.io/v1beta2","kind":"Volume","metadata":{"name":"pvc-root","namespace":"longhorn-system"},
			"spec":{"size":"1073741824","backupTargetName":"default","dataEngine":"v1"},"status":{"kubernetesStatus":{"pvName":"pvc-root","namespace":"demo","pvcName":"web-root"}}}`,
		"storageclasses":        `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"longhorn"},"provisioner":"driver.longhorn.io"}`,
		"backuptargets":         `{"apiVersion":"longhorn.io/v1beta2","kind":"BackupTarget","metadata":{"name":"default","namespace":"longhorn-system"},"spec":{"backupTargetURL":"s3://b@r/"},"status":{"available":true}}`,
		"volumesnapshotclasses": `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"longhorn"},"driver":"driver.longhorn.io","deletionPolicy":"Delete","parameters":{"type":"bak"}}`,
	} {
		c.Put(resource, decoded(t, "%s", object))
	}
	if presence.Served {
		for name, value := range map[string]string{
			"csi-driver-config": `{"driver.longhorn.io":{"volumeSnapshotClassName":"longhorn-snapshot","backupVolumeSnapshotClassName":"longhorn"}}`,
			"backup-target":     `{"type":"s3","endpoint":"e","bucketName":"b","bucketRegion":"r"}`,
		} {
			c.Put("settings", decoded(t, `{"apiVersion":"harvesterhci.io/v1beta1","kind":"Setting","metadata":{"name":%q},"value":%q}`, name, value))
		}
		// The kinds are served where there is an object of each.
		for resource, kind := range map[string]string{hv.BackupResource: "VirtualMachineBackup", hv.RestoreResource: hv.RestoreKind} {
			c.Put(resource, decoded(t, `{"apiVersion":"harvesterhci.io/v1beta1","kind":%q,"metadata":{"name":"old","namespace":"elsewhere"}}`, kind))
		}
	}
	return c
}

// router is one of a process that has started nothing.
func (c *cluster) router(choice string) *Router {
	c.t.Helper()
	clients, err := kube.NewClients(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	open := func(context.Context, string) (target.Store, error) { return c.store, nil }
	records := catalog.New(c.journal, catalog.Target{Name: vmbackup.DefaultTarget, Open: open}, direct.DecodeRestore).With(catalog.Harvester(clients))
	own := direct.New(clients, c.journal, records, open, time.Now)
	theirs := harvester.New(clients, own, records, open, time.Now, "v1.2.3")
	return New(own, theirs, choice, clients.Lookup, func(context.Context) (*hv.Presence, error) {
		c.looks++
		found := c.presence
		return &found, c.lookErr
	})
}

// theirBackup puts in a backup that Harvester has made, whole and on the target.
func (c *cluster) theirBackup(name string) vmbackup.Ref {
	c.t.Helper()
	ref := vmbackup.Ref{Namespace: "demo", Name: name}
	now := time.Now().UTC().Format(time.RFC3339)
	o := decoded(c.t, `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackup","metadata":{"name":%[1]q,"namespace":"demo"},
		"spec":{"type":"backup","source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"web"}},
		"status":{"sourceUID":"u","readyToUse":true,"creationTime":%[2]q,"backupTarget":{"endpoint":"e","bucketName":"b","bucketRegion":"r"},
		"conditions":[{"type":"Ready","status":"True","lastUpdateTime":%[2]q},{"type":"InProgress","status":"False"},{"type":"MetadataReady","status":"True"}],
		"volumeBackups":[{"name":"%[1]s-volume-web-root","volumeName":"root","csiDriverName":"driver.longhorn.io","volumeSize":1073741824,"readyToUse":true,"progress":100,
		"creationTime":%[2]q,"longhornBackupName":"backup-%[1]s","persistentVolumeClaim":{"metadata":{"name":"web-root","namespace":"demo"},
		"spec":{"volumeName":"pvc-root","storageClassName":"longhorn","accessModes":["ReadWriteMany"],"resources":{"requests":{"storage":"1Gi"}}}}}]}}`, name, now)
	source := map[string]any{"metadata": map[string]any{"name": "web", "namespace": "demo"}, "spec": c.Get("virtualmachines", "demo", "web").Object["spec"]}
	if err := unstructured.SetNestedMap(o.Object, source, "status", "source"); err != nil {
		c.t.Fatal(err)
	}
	c.Put(hv.BackupResource, o)
	c.Put("volumesnapshots", decoded(c.t, `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshot","metadata":{"name":"%s-volume-web-root","namespace":"demo"},"spec":{"source":{"persistentVolumeClaimName":"web-root"}}}`, name))
	c.Put("backups", decoded(c.t, `{"apiVersion":"longhorn.io/v1beta2","kind":"Backup","metadata":{"name":"backup-%[1]s","namespace":"longhorn-system","labels":{"backup-volume":"pvc-root"}},
		"spec":{"snapshotName":"s"},"status":{"state":"Completed","volumeName":"pvc-root","progress":100,"size":"4096","newlyUploadDataSize":"2048","lastSyncedAt":%[2]q}}`, name, now))
	c.Put("backupvolumes", decoded(c.t, `{"apiVersion":"longhorn.io/v1beta2","kind":"BackupVolume","metadata":{"name":"pvc-root","namespace":"longhorn-system"},"spec":{"volumeName":"pvc-root"}}`))
	for key, content := range map[string]string{target.BackupConfigKey("pvc-root", "backup-"+name): "{}", metadata.HarvesterBackupKey(ref): "{}"} {
		if err := c.store.Put(c.t.Context(), key, []byte(content)); err != nil {
			c.t.Fatal(err)
		}
	}
	return ref
}

// own makes a backup of Harvester's the tool's, with a record in the journal.
func (c *cluster) own(ref vmbackup.Ref) {
	c.t.Helper()
	clients, err := kube.NewClients(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	record, err := catalog.Harvester(clients).Record(c.t.Context(), ref)
	if err != nil {
		c.t.Fatal(err)
	}
	record.Backup.Status.Engine, record.Operation = vmbackup.EngineDirect, "0123456789ab"
	data, err := metadata.EncodeJournal(record)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.journal.Create(c.t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: ref, Data: data, Labels: map[string]string{
		journal.LabelPhase: "Ready", direct.LabelOperation: journal.LabelValue(record.Operation),
	}}); err != nil {
		c.t.Fatal(err)
	}
}

// keeper says who keeps an operation, empty for nobody.
func (c *cluster) keeper(kind journal.Kind, resource string, ref vmbackup.Ref) string {
	c.t.Helper()
	var keepers []string
	if _, err := c.journal.Get(c.t.Context(), kind, ref); err == nil {
		keepers = append(keepers, vmbackup.EngineDirect)
	}
	if c.Get(resource, ref.Namespace, ref.Name) != nil {
		keepers = append(keepers, vmbackup.EngineHarvester)
	}
	return strings.Join(keepers, ",")
}

// wantError fails for an error of another reason, or without what it has to say.
func wantError(t *testing.T, err error, reason vmbackup.Reason, says string) {
	t.Helper()
	e := vmbackup.AsError(err, "none")
	if e == nil {
		t.Fatalf("no error, want %s", reason)
	}
	if e.Reason != reason || !e.Preflight || !strings.Contains(e.Message, says) {
		t.Errorf("reason %s (preflight %t), want %s with %q: %v", e.Reason, e.Preflight, reason, says, err)
	}
}

// unbegun runs something until its first event, and returns the IDs of the steps that it announces.
func unbegun(t *testing.T, run func(ctx context.Context, opts vmbackup.RunOptions) error) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	events := &enginetest.Events{On: func(vmbackup.Event) { stop() }}
	err := run(ctx, vmbackup.RunOptions{Sink: events})
	all := events.All()
	if len(all) == 0 {
		t.Fatalf("no event: %v", err)
	}
	return ids(all[0].Steps)
}

func ids(steps []vmbackup.StepStatus) string {
	list := make([]string, 0, len(steps))
	for _, s := range steps {
		list = append(list, s.ID)
	}
	return strings.Join(list, " ")
}
