// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/enginetest"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cluster is an API server with what Harvester's controllers, the CSI controllers and
// Longhorn do on it about a VirtualMachineBackup, as far as the engine sees it.
type cluster struct {
	*enginetest.APIServer
	t       *testing.T
	store   *loggedStore
	journal journal.Store

	mu      sync.Mutex
	uploads int
	openErr error
	// stuck keeps Harvester from looking at new objects, and unnamed from naming
	// Longhorn's backups in them.
	stuck, unnamed bool
	// loses makes Longhorn call backups complete that are not on the target.
	loses bool
	// uploadFails is the error of every upload.
	uploadFails string
	// keeps is a deletion policy Retain.
	keeps bool
}

// loggedStore notes what is written to the target.
type loggedStore struct {
	target.Store
	mu     sync.Mutex
	writes []string
	// quiet is true while a controller writes.
	quiet bool
}

func (s *loggedStore) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.quiet {
		s.writes = append(s.writes, what)
	}
}

func (s *loggedStore) Put(ctx context.Context, key string, content []byte) error {
	s.note("put " + key)
	return s.Store.Put(ctx, key, content)
}

func (s *loggedStore) Delete(ctx context.Context, key string) error {
	s.note("delete " + key)
	return s.Store.Delete(ctx, key)
}

// loggedJournal notes what is written to the journal: in a cluster that are requests, too.
type loggedJournal struct {
	journal.Store
	log *loggedStore
}

func (j loggedJournal) Create(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	j.log.note("create record " + e.Ref.String())
	return j.Store.Create(ctx, e)
}

func (j loggedJournal) Update(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	j.log.note("update record " + e.Ref.String())
	return j.Store.Update(ctx, e)
}

func (j loggedJournal) Delete(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) error {
	j.log.note("delete record " + ref.String())
	return j.Store.Delete(ctx, kind, ref)
}

const uploadTakes = 700 * time.Millisecond

var (
	web = vmbackup.Ref{Namespace: "demo", Name: "web"}
	b1  = vmbackup.Ref{Namespace: "demo", Name: "b1"}
)

// decoded is an object from JSON.
func decoded(t *testing.T, format string, args ...any) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(fmt.Sprintf(format, args...)), &u.Object); err != nil {
		t.Fatalf("%v in %s", err, fmt.Sprintf(format, args...))
	}
	return u
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{APIServer: enginetest.NewAPIServer(t), t: t, store: &loggedStore{Store: target.NewMemory(time.Now)}}
	c.journal = loggedJournal{journal.NewMemory(), c.store}
	c.OnChange(c.react)
	c.Put("virtualmachines", decoded(t, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo","labels":{"app":"web"}},
		"spec":{"runStrategy":"Always","template":{"spec":{"domain":{"devices":{}},"volumes":[
		{"name":"root","persistentVolumeClaim":{"claimName":"web-root"}},{"name":"data","persistentVolumeClaim":{"claimName":"web-data"}},
		{"name":"init","cloudInitNoCloud":{"secretRef":{"name":"web-init"}}},{"name":"conf","configMap":{"name":"web-conf"}}]}}}}`))
	c.Put("virtualmachineinstances", decoded(t, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"web","namespace":"demo"},"spec":{"domain":{"devices":{}}},
		"status":{"phase":"Running","conditions":[{"type":"AgentConnected","status":"True"}]}}`))
	for _, disk := range []string{"web-root", "web-data"} {
		c.Put("persistentvolumeclaims", decoded(t, `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":%[1]q,"namespace":"demo","labels":{"tier":"gold"}},
			"spec":{"accessModes":["ReadWriteMany"],"storageClassName":"longhorn","volumeName":"pvc-%[1]s","resources":{"requests":{"storage":"1Gi"}}},"status":{"phase":"Bound"}}`, disk))
		c.Put("volumes", decoded(t, `{"apiVersion":"longhorn.io/v1beta2","kind":"Volume","metadata":{"name":"pvc-%[1]s","namespace":"longhorn-system"},
			"spec":{"size":"1073741824","backupTargetName":"default","dataEngine":"v1"},
			"status":{"actualSize":4096,"kubernetesStatus":{"pvName":"pvc-%[1]s","namespace":"demo","pvcName":%[1]q}}}`, disk))
	}
	c.Put("secrets", decoded(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"web-init","namespace":"demo","labels":{"of":"web"}},"type":"Opaque","data":{"userdata":"eA=="}}`))
	c.Put("configmaps", decoded(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web-conf","namespace":"demo"},"data":{"a":"b"}}`))
	c.Put("volumesnapshotclasses", decoded(t, `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"longhorn"},"driver":"driver.longhorn.io","deletionPolicy":"Delete","parameters":{"type":"bak"}}`))
	c.Put("volumesnapshotclasses", decoded(t, `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"longhorn-snapshot"},"driver":"driver.longhorn.io","deletionPolicy":"Delete","parameters":{"type":"snap"}}`))
	c.setting("csi-driver-config", `{"driver.longhorn.io":{"volumeSnapshotClassName":"longhorn-snapshot","backupVolumeSnapshotClassName":"longhorn"}}`)
	c.setting("backup-target", `{"type":"s3","endpoint":"e","bucketName":"b","bucketRegion":"r"}`)
	c.Put("backuptargets", decoded(t, `{"apiVersion":"longhorn.io/v1beta2","kind":"BackupTarget","metadata":{"name":"default","namespace":"longhorn-system"},"spec":{"backupTargetURL":"s3://b@r/"},"status":{"available":true}}`))
	return c
}

func (c *cluster) setting(name, value string) {
	c.Put("settings", decoded(c.t, `{"apiVersion":"harvesterhci.io/v1beta1","kind":"Setting","metadata":{"name":%q},"value":%q}`, name, value))
}

// engine is one that has started nothing.
func (c *cluster) engine() *Engine {
	c.t.Helper()
	clients, err := kube.NewClients(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	open := func(context.Context, string) (target.Store, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.openErr != nil {
			return nil, c.openErr
		}
		return c.store, nil
	}
	records := catalog.New(c.journal, catalog.Target{Name: vmbackup.DefaultTarget, Open: open}, direct.DecodeRestore).With(catalog.Harvester(clients))
	own := direct.New(clients, c.journal, records, open, time.Now)
	e := New(clients, own, records, open, time.Now, "v1.2.3")
	e.settleAfter, e.failAfter = 300*time.Millisecond, 300*time.Millisecond
	return e
}

// react is what the controllers do about a change.
func (c *cluster) react(resource string, o *unstructured.Unstructured) {
	namespace, name := o.GetNamespace(), o.GetName()
	gone := o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0
	switch resource {
	case "virtualmachinebackups":
		status, _, _ := unstructured.NestedMap(o.Object, "status")
		switch begun := len(status) > 0; {
		case o.GetDeletionTimestamp() != nil && !gone:
			c.remove(metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: namespace, Name: name}))
			c.Edit(resource, namespace, name, func(o *unstructured.Unstructured) { o.SetFinalizers(nil) })
		case !gone && !begun && !c.is(&c.stuck):
			c.begin(o)
		}
	case "volumesnapshots":
		if content := "snapcontent-" + string(o.GetUID()); gone && !c.is(&c.keeps) {
			c.Delete("volumesnapshotcontents", "", content)
		}
	case "volumesnapshotcontents":
		for _, b := range c.All("backups") {
			if of, _, _ := unstructured.NestedString(b.Object, "spec", "snapshotName"); gone && "snapcontent-"+strings.TrimPrefix(of, "snapshot-") == name && !c.is(&c.keeps) {
				c.Delete("backups", b.GetNamespace(), b.GetName())
			}
		}
	case "backups":
		if o.GetDeletionTimestamp() != nil && !gone {
			c.Later(20*time.Millisecond, func() {
				c.remove(target.BackupConfigKey(o.GetLabels()["backup-volume"], name))
				c.Edit(resource, namespace, name, func(o *unstructured.Unstructured) { o.SetFinalizers(nil) })
			})
		}
	}
}

func (c *cluster) is(flag *bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *flag
}

// quietly lets a controller write to the target.
func (c *cluster) quietly(f func(context.Context)) {
	c.store.mu.Lock()
	c.store.quiet = true
	c.store.mu.Unlock()
	f(context.WithoutCancel(c.t.Context()))
	c.store.mu.Lock()
	c.store.quiet = false
	c.store.mu.Unlock()
}

func (c *cluster) remove(key string) {
	c.quietly(func(ctx context.Context) { _ = c.store.Store.Delete(ctx, key) })
}

func (c *cluster) write(key, content string) {
	c.quietly(func(ctx context.Context) { _ = c.store.Store.Put(ctx, key, []byte(content)) })
}

// begin is Harvester's look at a new object: its status, and a VolumeSnapshot of each volume.
func (c *cluster) begin(o *unstructured.Unstructured) {
	namespace, name := o.GetNamespace(), o.GetName()
	vm := c.Get("virtualmachines", namespace, "web")
	var volumes []any
	for _, disk := range []string{"data", "root"} { // in an order of its own
		volumes = append(volumes, map[string]any{
			"name": name + "-volume-web-" + disk, "volumeName": disk, "csiDriverName": capture.Driver, "volumeSize": int64(1 << 30), "readyToUse": false,
			"persistentVolumeClaim": map[string]any{
				"metadata": map[string]any{"name": "web-" + disk, "namespace": namespace},
				"spec":     map[string]any{"volumeName": "pvc-web-" + disk, "storageClassName": "longhorn", "accessModes": []any{"ReadWriteMany"}, "resources": map[string]any{"requests": map[string]any{"storage": "1Gi"}}},
			},
		})
	}
	source := map[string]any{"name": "web", "namespace": namespace}
	for _, key := range []string{"labels", "annotations"} {
		if have, found, _ := unstructured.NestedMap(vm.Object, "metadata", key); found {
			source[key] = have
		}
	}
	c.Edit("virtualmachinebackups", namespace, name, func(o *unstructured.Unstructured) {
		o.SetFinalizers([]string{"wrangler.cattle.io/harvester-vm-backup-controller"})
		o.Object["status"] = map[string]any{
			"sourceUID": string(vm.GetUID()), "readyToUse": false, "volumeBackups": volumes,
			"backupTarget":  map[string]any{"endpoint": "e", "bucketName": "b", "bucketRegion": "r"},
			"source":        map[string]any{"metadata": source, "spec": vm.Object["spec"]},
			"secretBackups": []any{map[string]any{"name": "web-init", "data": map[string]any{"userdata": "eA=="}}},
			"conditions":    conditions("InProgress", "True"),
		}
	})
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
	for _, disk := range []string{"data", "root"} {
		c.Later(10*time.Millisecond, func() { c.cut(o, kind, disk) })
	}
}

func conditions(pairs ...string) []any {
	var list []any
	for pair := range slices.Chunk(pairs, 2) {
		list = append(list, map[string]any{"type": pair[0], "status": pair[1], "lastUpdateTime": time.Now().UTC().Format(time.RFC3339)})
	}
	return list
}

// cut is the work of Harvester, the CSI controllers and Longhorn on one volume.
func (c *cluster) cut(o *unstructured.Unstructured, kind, disk string) {
	namespace, name := o.GetNamespace(), o.GetName()
	if have := c.Get("virtualmachinebackups", namespace, name); have == nil || have.GetDeletionTimestamp() != nil {
		return
	}
	s := c.Put("volumesnapshots", decoded(c.t, `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshot","metadata":{"name":"%s-volume-web-%s","namespace":%q,
		"ownerReferences":[{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackup","name":%q,"uid":%q,"controller":true}]},
		"spec":{"source":{"persistentVolumeClaimName":"web-%s"}}}`, name, disk, namespace, name, o.GetUID(), disk))
	policy := "Delete"
	if c.is(&c.keeps) {
		policy = "Retain"
	}
	snapshot := "snapshot-" + string(s.GetUID())
	c.Put("volumesnapshotcontents", decoded(c.t, `{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotContent","metadata":{"name":"snapcontent-%s"},"spec":{"driver":"driver.longhorn.io","deletionPolicy":%q,"source":{},"volumeSnapshotRef":{}}}`, s.GetUID(), policy))
	c.Put("snapshots", decoded(c.t, `{"apiVersion":"longhorn.io/v1beta2","kind":"Snapshot","metadata":{"name":%q,"namespace":"longhorn-system"},"spec":{"volume":"pvc-web-%s"}}`, snapshot, disk))
	if kind == "snapshot" {
		c.volume(o, disk, func(v map[string]any) { v["readyToUse"] = true })
		c.whole(o, kind)
		return
	}
	c.mu.Lock()
	c.uploads++
	backup, failure := fmt.Sprintf("backup-%d", c.uploads), c.uploadFails
	c.mu.Unlock()
	c.Put("backups", decoded(c.t, `{"apiVersion":"longhorn.io/v1beta2","kind":"Backup","metadata":{"name":%q,"namespace":"longhorn-system","finalizers":["longhorn.io"],"labels":{"backup-volume":"pvc-web-%s"}},
		"spec":{"snapshotName":%q},"status":{"state":"InProgress","volumeName":"pvc-web-%[2]s","snapshotName":%[3]q,"progress":20}}`, backup, disk, snapshot))
	c.volume(o, disk, func(v map[string]any) {
		v["creationTime"] = time.Now().UTC().Format(time.RFC3339)
		if !c.is(&c.unnamed) {
			v["longhornBackupName"] = backup
		}
	})
	c.Later(uploadTakes, func() {
		if have := c.Get("backups", kube.LonghornNamespace, backup); have == nil || have.GetDeletionTimestamp() != nil {
			return
		}
		if failure == "" && !c.is(&c.loses) {
			c.write(target.BackupConfigKey("pvc-web-"+disk, backup), "{}")
		}
		c.Edit("backups", kube.LonghornNamespace, backup, func(b *unstructured.Unstructured) {
			status, _, _ := unstructured.NestedMap(b.Object, "status")
			status["state"], status["progress"], status["size"], status["newlyUploadDataSize"] = "Completed", int64(100), "4096", "2048"
			if failure != "" {
				status["state"], status["error"] = "Error", failure
			}
			b.Object["status"] = status
		})
		c.volume(o, disk, func(v map[string]any) { v["readyToUse"], v["progress"] = true, int64(100) })
		c.whole(o, kind)
	})
}

// volume changes a volume in the status.
func (c *cluster) volume(o *unstructured.Unstructured, disk string, change func(map[string]any)) {
	c.Edit("virtualmachinebackups", o.GetNamespace(), o.GetName(), func(o *unstructured.Unstructured) {
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "volumeBackups")
		for _, v := range list {
			if volume := v.(map[string]any); volume["volumeName"] == disk {
				change(volume)
			}
		}
		_ = unstructured.SetNestedSlice(o.Object, list, "status", "volumeBackups")
	})
}

// whole calls the backup ready once its volumes are, and writes its description.
func (c *cluster) whole(o *unstructured.Unstructured, kind string) {
	have := c.Get("virtualmachinebackups", o.GetNamespace(), o.GetName())
	if have == nil {
		return
	}
	list, _, _ := unstructured.NestedSlice(have.Object, "status", "volumeBackups")
	for _, v := range list {
		if v.(map[string]any)["readyToUse"] != true {
			return
		}
	}
	done := conditions("Ready", "True", "InProgress", "False")
	if kind == "backup" {
		c.write(metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: o.GetNamespace(), Name: o.GetName()}), "{}")
		done = append(done, conditions("MetadataReady", "True")...)
	}
	c.Edit("virtualmachinebackups", o.GetNamespace(), o.GetName(), func(o *unstructured.Unstructured) {
		_ = unstructured.SetNestedField(o.Object, true, "status", "readyToUse")
		_ = unstructured.SetNestedSlice(o.Object, done, "status", "conditions")
	})
}

// files are the keys on the target.
func (c *cluster) files() []string {
	var keys []string
	err := c.store.List(c.t.Context(), "", func(o target.Object) error {
		keys = append(keys, o.Key)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return keys
}

// left is what a backup has made and is there.
func (c *cluster) left() []string {
	var left []string
	for _, resource := range []string{"virtualmachinebackups", "volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
		for _, o := range c.All(resource) {
			left = append(left, resource+" "+o.GetName())
		}
	}
	return append(left, c.files()...)
}

// contract is the cluster as the suite of all engines sees it.
type contract struct{ c *cluster }

func (k contract) Engine() vmbackup.Engine { return k.c.engine() }
func (k contract) VM() vmbackup.Ref        { return web }
func (k contract) Left() []string          { return k.c.left() }

func (k contract) Writes() []string {
	k.c.store.mu.Lock()
	defer k.c.store.mu.Unlock()
	return append(k.c.Writes(), k.c.store.writes...)
}

func (k contract) Uploads() int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.c.uploads
}

// What the tool relies on, whoever does the work.
func TestContract(t *testing.T) {
	enginetest.Backups(t, func(t *testing.T, test func(*testing.T, enginetest.Cluster)) {
		t.Parallel()
		test(t, contract{newCluster(t)})
	})
}
