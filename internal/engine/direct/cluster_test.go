// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshotfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	snapshotscheme "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/scheme"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	longhornfake "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/fake"
	longhornscheme "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/scheme"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corefake "k8s.io/client-go/kubernetes/fake"
	corescheme "k8s.io/client-go/kubernetes/scheme"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const gib = int64(1) << 30

// cluster is an API server with what KubeVirt, the CSI snapshot controllers and
// Longhorn do on it, as far as the engine sees it. It lives in a synctest bubble:
// delays cost nothing and everything that happens in one second happens in order.
type cluster struct {
	*apiServer
	vms     *machines
	journal *loggedJournal
	store   *loggedStore
	engine  *Engine
	anew    func() // makes an engine that has started nothing, as another process has
	events  *recorder

	mu sync.Mutex
	// bindForgets: the snapshot controller overlooks composed VolumeSnapshots until they change.
	bindForgets bool
	// cutTakes is how long Longhorn takes for a snapshot, by claim; a negative one is never cut.
	cutTakes map[string]time.Duration
	// uploadFails is the error of the upload of a Longhorn volume.
	uploadFails map[string]string
	// uploadTakes is how long every upload takes.
	uploadTakes time.Duration
	// uploading are the Backups whose uploads are under way.
	uploading map[string]bool
	// uploadWaits is how long the CSI sidecar needs until it asks for an upload.
	uploadWaits time.Duration
	// loses makes Longhorn call backups complete that are not on the target.
	loses bool
	// keeps makes Longhorn forget deleted backups without deleting their data.
	keeps bool
	// restoreFails is the message of the failed restore of every volume.
	restoreFails string
	// restoreHeld keeps the data of restored volumes from coming.
	restoreHeld bool
	// forgets makes Longhorn drop its list of backups.
	listed  map[string]*longhornv1.Backup
	backups int
	// openErr is the error of opening the target.
	openErr error
	// dataVolumes says whether the cluster knows DataVolumes.
	dataVolumes bool
	// notesNothing makes KubeVirt leave the status of machines alone.
	notesNothing bool
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		apiServer: newAPIServer(t), events: &recorder{},
		cutTakes: map[string]time.Duration{}, uploadFails: map[string]string{}, uploadTakes: 2 * time.Second, uploading: map[string]bool{},
		listed: map[string]*longhornv1.Backup{},
	}
	c.journal = &loggedJournal{Store: journal.NewMemory(), api: c.apiServer}
	c.store = &loggedStore{Store: target.NewMemory(time.Now), api: c.apiServer}
	core, snapshot, longhorn := &corefake.Clientset{}, &snapshotfake.Clientset{}, &longhornfake.Clientset{}
	c.serve(&core.Fake, corescheme.Scheme)
	c.serve(&snapshot.Fake, snapshotscheme.Scheme)
	c.serve(&longhorn.Fake, longhornscheme.Scheme)
	c.vms = newMachines(c.apiServer)
	open := func(_ context.Context, name string) (target.Store, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if name != vmbackup.DefaultTarget {
			return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn has no backup target %q", name)
		}
		return c.store, c.openErr
	}
	clients := &kube.Clients{Core: core, Snapshot: snapshot, Longhorn: longhorn, KubeVirt: newKubevirtFake(c.apiServer), VMs: c.vms, Lookup: lookup{c}}
	records := catalog.New(c.journal, catalog.Target{Name: vmbackup.DefaultTarget, Open: open}, DecodeRestore)
	c.anew = func() { c.engine = New(clients, c.journal, records, open, time.Now) }
	c.anew()
	c.after = append(c.after, c.react)

	for _, name := range []string{"demo", "other"} {
		c.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	c.put("storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "longhorn"}, Provisioner: Driver})
	c.put("backuptargets", &longhornv1.BackupTarget{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: vmbackup.DefaultTarget}})
	return c
}

// disk brings in a claim with its PersistentVolume and its Longhorn volume.
func (c *cluster) disk(namespace, name string, size int64) {
	volume := "pvc-" + name
	class := "longhorn"
	c.put("persistentvolumeclaims", &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"tier": "gold"}, Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, StorageClassName: &class, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	})
	c.persistentVolume(volume)
	c.put("volumes", &longhornv1.Volume{
		ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: volume},
		Spec:       longhornv1.VolumeSpec{Size: size, BackupTargetName: vmbackup.DefaultTarget},
		Status:     longhornv1.VolumeStatus{ActualSize: size / 2},
	})
}

func (c *cluster) persistentVolume(volume string) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volume}}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: Driver, VolumeHandle: volume}
	c.put("persistentvolumes", pv)
}

// web is the machine of most tests: two disks, a cloud-init secret, a config map.
var web = vmbackup.Ref{Namespace: "demo", Name: "web"}

const webManifest = `{
  "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
  "metadata": {"name": "web", "namespace": "demo", "labels": {"app": "web"}, "annotations": {"note": "keep"}},
  "spec": {
    "runStrategy": "Always", "fieldOfTheFuture": {"answer": 42},
    "template": {
      "metadata": {"labels": {"kubevirt.io/vm": "web"}},
      "spec": {
        "domain": {"devices": {"interfaces": [{"name": "default", "macAddress": "02:00:00:00:00:01", "masquerade": {}}]}},
        "volumes": [
          {"name": "root", "persistentVolumeClaim": {"claimName": "web-root"}},
          {"name": "data", "dataVolume": {"name": "web-data"}},
          {"name": "cloudinit", "cloudInitNoCloud": {"secretRef": {"name": "web-init"}}},
          {"name": "conf", "configMap": {"name": "web-conf"}}
        ]
      }
    }
  }
}`

// addWeb brings the machine in, running with a guest agent.
func (c *cluster) addWeb() {
	c.t.Helper()
	c.addMachine(webManifest)
	c.disk("demo", "web-root", 10*gib)
	c.disk("demo", "web-data", 20*gib)
	c.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-init"}, Data: map[string][]byte{"userdata": []byte("#cloud-config\n")}})
	c.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-conf"}, Data: map[string]string{"port": "8080"}})
	c.vms.run(web, true)
}

func (c *cluster) addMachine(manifest string) {
	c.t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(manifest), &object); err != nil {
		c.t.Fatal(err)
	}
	if err := c.vms.add(object); err != nil {
		c.t.Fatal(err)
	}
}

// react is what the controllers do about a change.
func (c *cluster) react(verb, kind string, object runtime.Object) {
	switch o := object.(type) {
	case *snapshotv1.VolumeSnapshot:
		if verb == "create" && o.Spec.Source.PersistentVolumeClaimName != nil {
			c.snapshot(o)
		}
		if o.Spec.Source.VolumeSnapshotContentName != nil && (o.Status == nil || o.Status.BoundVolumeSnapshotContentName == nil) {
			c.bind(o)
		}
	case *corev1.PersistentVolumeClaim:
		if verb == "create" && o.Spec.DataSource != nil {
			time.AfterFunc(100*time.Millisecond, func() { c.provision(o) })
		}
	case *longhornv1.Backup:
		if verb == "update" && o.DeletionTimestamp != nil {
			time.AfterFunc(500*time.Millisecond, func() { c.purge(o) })
		}
		if verb == "create" {
			c.carryOut(o.Name, o.Labels["backup-volume"], o.Spec.SnapshotName)
		}
	case *longhornv1.Snapshot:
		if verb == "create" && o.Spec.CreateSnapshot {
			c.requested(o)
		}
	case *longhornv1.BackupTarget:
		if verb == "update" && !o.Spec.SyncRequestedAt.IsZero() {
			time.AfterFunc(time.Second, c.relist)
		}
	case *appsv1.ControllerRevision:
		for _, vm := range c.all("virtualmachines") {
			c.noteRevisions(vm.(*kubevirtv1.VirtualMachine))
		}
	case *kubevirtv1.VirtualMachine:
		c.noteRevisions(o)
		c.turnOff(o)
		if verb == "update" && o.Spec.RunStrategy != nil && *o.Spec.RunStrategy == kubevirtv1.RunStrategyAlways && !o.Status.Ready {
			time.AfterFunc(time.Second, func() {
				edit(c.apiServer, "virtualmachines", o.Namespace, o.Name, func(vm *kubevirtv1.VirtualMachine) { vm.Status.Ready = true })
			})
		}
	}
	_ = kind
}

// bind is the snapshot controller's work on a composed VolumeSnapshot; one that is
// forgotten is bound only once somebody has changed it.
func (c *cluster) bind(s *snapshotv1.VolumeSnapshot) {
	c.mu.Lock()
	forgotten := c.bindForgets
	c.mu.Unlock()
	if forgotten && s.Annotations[annotationNudge] == "" {
		return
	}
	time.AfterFunc(50*time.Millisecond, func() {
		if c.has("volumesnapshots", s.Namespace, s.Name) {
			edit(c.apiServer, "volumesnapshots", s.Namespace, s.Name, func(s *snapshotv1.VolumeSnapshot) {
				s.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: s.Spec.Source.VolumeSnapshotContentName}
			})
		}
	})
}

// snapshot is the work of the CSI controllers and of Longhorn on a new VolumeSnapshot.
func (c *cluster) snapshot(s *snapshotv1.VolumeSnapshot) {
	claim := *s.Spec.Source.PersistentVolumeClaimName
	volume := "pvc-" + claim
	if have, err := c.get(objectKey{"persistentvolumeclaims", s.Namespace, claim}, schema.GroupResource{}); err == nil {
		volume = have.(*corev1.PersistentVolumeClaim).Spec.VolumeName
	}
	content := "snapcontent-" + string(s.UID)
	name := "snapshot-" + string(s.UID)
	takes := c.takes(claim)
	time.AfterFunc(50*time.Millisecond, func() {
		c.put("volumesnapshotcontents", &snapshotv1.VolumeSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: content},
			Spec:       snapshotv1.VolumeSnapshotContentSpec{Driver: Driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain, VolumeSnapshotRef: corev1.ObjectReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID}},
		})
		edit(c.apiServer, "volumesnapshots", s.Namespace, s.Name, func(s *snapshotv1.VolumeSnapshot) {
			s.Status = &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &content}
			if takes < 0 {
				message := "rpc error: code = DeadlineExceeded"
				s.Status.Error = &snapshotv1.VolumeSnapshotError{Message: &message}
			}
		})
	})
	if takes < 0 {
		return
	}
	// The CSI driver comes a little later than who asks Longhorn itself, and finds that snapshot.
	time.AfterFunc(takes+50*time.Millisecond, func() {
		if !c.has("volumesnapshots", s.Namespace, s.Name) {
			return
		}
		if !c.has("snapshots", kube.LonghornNamespace, name) {
			// Longhorn makes the object first and cuts then.
			made := c.put("snapshots", &longhornv1.Snapshot{ObjectMeta: metav1.ObjectMeta{
				Namespace: kube.LonghornNamespace, Name: name, Labels: map[string]string{"longhornvolume": volume},
			}, Spec: longhornv1.SnapshotSpec{Volume: volume}}).(*longhornv1.Snapshot)
			made.Status.ReadyToUse, made.Status.CreationTime = true, time.Now().UTC().Format(time.RFC3339)
			c.put("snapshots", made)
		}
		if c.classType(*s.Spec.VolumeSnapshotClassName) == "snap" {
			ready := true
			edit(c.apiServer, "volumesnapshots", s.Namespace, s.Name, func(s *snapshotv1.VolumeSnapshot) { s.Status.ReadyToUse = &ready })
			return
		}
		time.AfterFunc(c.uploadWaits, func() { c.upload(volume, name) })
	})
}

// takes is how long Longhorn needs for a snapshot of a claim; a negative one is never cut.
func (c *cluster) takes(claim string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if takes, set := c.cutTakes[claim]; set {
		return takes
	}
	return 300 * time.Millisecond
}

// cutQuickly makes Longhorn quick again for all claims.
func (c *cluster) cutQuickly() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cutTakes)
}

// requested is Longhorn's work on a Snapshot that somebody else has made: its
// webhook labels it, its engine cuts it.
func (c *cluster) requested(s *longhornv1.Snapshot) {
	edit(c.apiServer, "snapshots", s.Namespace, s.Name, func(s *longhornv1.Snapshot) {
		s.Labels = map[string]string{"longhornvolume": s.Spec.Volume}
	})
	takes := c.takes(strings.TrimPrefix(s.Spec.Volume, "pvc-"))
	if takes < 0 {
		return
	}
	time.AfterFunc(takes, func() {
		edit(c.apiServer, "snapshots", s.Namespace, s.Name, func(s *longhornv1.Snapshot) {
			s.Status.RequestedTime = time.Now().UTC().Format(time.RFC3339)
		})
	})
}

func (c *cluster) classType(name string) string {
	for _, o := range c.all("volumesnapshotclasses") {
		if class := o.(*snapshotv1.VolumeSnapshotClass); class.Name == name {
			return class.Parameters["type"]
		}
	}
	return "class " + name + " is missing"
}

// provision is Longhorn's restore of a new claim from its VolumeSnapshot.
func (c *cluster) provision(claim *corev1.PersistentVolumeClaim) {
	if !c.has("persistentvolumeclaims", claim.Namespace, claim.Name) {
		return // it was deleted before its turn
	}
	var handle string
	edit(c.apiServer, "volumesnapshotcontents", "", claim.Spec.DataSource.Name, func(o *snapshotv1.VolumeSnapshotContent) {
		handle = *o.Spec.Source.SnapshotHandle
	})
	_, _, backup, ok := handleParts(handle)
	if !ok || !c.has("volumesnapshots", claim.Namespace, claim.Spec.DataSource.Name) {
		c.t.Errorf("claim %s: no composed snapshot %s", claim.Name, claim.Spec.DataSource.Name)
		return
	}
	edit(c.apiServer, "volumesnapshots", claim.Namespace, claim.Spec.DataSource.Name, func(o *snapshotv1.VolumeSnapshot) {
		if o.Status == nil || o.Status.BoundVolumeSnapshotContentName == nil {
			c.t.Errorf("claim %s was made before its snapshot %s was bound", claim.Name, o.Name)
		}
	})
	if strings.HasPrefix(handle, "bak://") && !c.has("backups", kube.LonghornNamespace, backup) {
		c.t.Errorf("claim %s: Longhorn does not list %s", claim.Name, handle)
		return
	}
	volume := "pvc-" + string(claim.UID)
	c.persistentVolume(volume)
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	v := &longhornv1.Volume{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: volume}, Spec: longhornv1.VolumeSpec{Size: size.Value(), BackupTargetName: vmbackup.DefaultTarget}}
	v.Status.State, v.Status.RestoreRequired, v.Status.RestoreInitiated = longhornv1.VolumeStateAttached, true, true
	c.put("volumes", v)
	edit(c.apiServer, "persistentvolumeclaims", claim.Namespace, claim.Name, func(p *corev1.PersistentVolumeClaim) {
		p.Spec.VolumeName, p.Status.Phase = volume, corev1.ClaimBound
	})
	c.mu.Lock()
	why := c.restoreFails
	c.mu.Unlock()
	time.AfterFunc(time.Second, func() {
		e := &longhornv1.Engine{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: volume + "-e-0", Labels: map[string]string{"longhornvolume": volume}}}
		e.Spec.VolumeName = volume
		e.Status.RestoreStatus = map[string]*longhornv1.RestoreStatus{"tcp://a": {Progress: 70}, "tcp://b": {Progress: 30}}
		c.put("engines", e)
	})
	time.AfterFunc(3*time.Second, func() { c.restored(volume, why) })
}

// restored is the end of a volume's restore.
func (c *cluster) restored(volume, why string) {
	c.mu.Lock()
	held := c.restoreHeld
	c.mu.Unlock()
	if held {
		time.AfterFunc(time.Second, func() { c.restored(volume, why) })
		return
	}
	edit(c.apiServer, "volumes", kube.LonghornNamespace, volume, func(v *longhornv1.Volume) {
		if why != "" {
			v.Status.Conditions = []longhornv1.Condition{{Type: longhornv1.VolumeConditionTypeRestore, Status: longhornv1.ConditionStatusFalse, Reason: longhornv1.VolumeConditionReasonRestoreFailure, Message: why}}
			return
		}
		v.Status.RestoreRequired = false
	})
	// Restored, and still attached for a moment.
	time.AfterFunc(time.Second, func() {
		edit(c.apiServer, "volumes", kube.LonghornNamespace, volume, func(v *longhornv1.Volume) { v.Status.State = longhornv1.VolumeStateDetached })
	})
}

// recorder keeps the events.
type recorder struct {
	mu     sync.Mutex
	events []vmbackup.Event
	// on is called with each event.
	on func(vmbackup.Event)
}

func (r *recorder) Emit(e vmbackup.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	on := r.on
	r.mu.Unlock()
	if on != nil {
		on(e)
	}
}

// told are the events of the types given, in short: type, subject, state, message.
func (r *recorder) told(types ...vmbackup.EventType) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, e := range r.events {
		for _, t := range types {
			if e.Type != t {
				continue
			}
			parts := []string{string(e.Type)}
			for _, p := range []string{e.Step, e.Volume, string(e.State), string(e.Phase), string(e.Reason)} {
				if p != "" {
					parts = append(parts, p)
				}
			}
			list = append(list, strings.Join(parts, " "))
		}
	}
	return list
}

// record reads a backup's record from the journal.
func (c *cluster) record(ref vmbackup.Ref) *metadata.Record {
	c.t.Helper()
	entry, err := c.journal.Get(c.t.Context(), journal.KindBackup, ref)
	if err != nil {
		c.t.Fatal(err)
	}
	record, err := metadata.DecodeJournal(ref, entry.Data)
	if err != nil {
		c.t.Fatal(err)
	}
	return record
}

// files are the keys on the target.
func (c *cluster) files() []string {
	c.t.Helper()
	keys := []string{}
	if err := c.store.List(c.t.Context(), "", func(o target.Object) error {
		keys = append(keys, o.Key)
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return keys
}
