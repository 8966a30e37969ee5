// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// machineBackup is a Ready backup of a machine with one volume, made so many hours before noon.
func machineBackup(ref vmbackup.Ref, vm, volume, backup string, hours int) *metadata.Record {
	began := noon().Add(-time.Duration(hours) * time.Hour)
	b := vmbackup.NewBackup(ref)
	b.Spec = vmbackup.BackupSpec{VM: vm, Type: vmbackup.TypeBackup, Target: vmbackup.DefaultTarget}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, StartedAt: &began, CompletedAt: &began,
		Volumes: []vmbackup.BackupVolume{{
			Name: "root", PVC: vm + "-root", StorageClass: "longhorn", SizeBytes: 1 << 30, LonghornVolume: volume, LonghornBackup: backup,
			VolumeSnapshot: ref.Name + "-volume-" + vm + "-root", SnapshotHandle: metadata.BackupHandle(volume, backup), State: vmbackup.StateReady, Progress: 100,
		}},
	}
	object := func(format string, args ...any) json.RawMessage { return json.RawMessage(fmt.Sprintf(format, args...)) }
	return &metadata.Record{
		Backup: *b,
		VM:     object(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":%q,"namespace":%q},"spec":{"template":{"spec":{"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":"%s-root"}}]}}}}`, vm, ref.Namespace, vm),
		Claims: []json.RawMessage{object(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"%s-root","namespace":%q},"spec":{"volumeName":%q,"storageClassName":"longhorn","resources":{"requests":{"storage":"1Gi"}}}}`, vm, ref.Namespace, volume)},
	}
}

func put(t testing.TB, store target.Store, key, content string) {
	t.Helper()
	if err := store.Put(t.Context(), key, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

// putBackup writes both descriptions of a backup.
func putBackup(t testing.TB, store target.Store, record *metadata.Record) {
	t.Helper()
	own, err := metadata.EncodeRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := metadata.EncodeHarvester(record)
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, metadata.RecordKey(record.Backup.Ref()), string(own))
	put(t, store, metadata.HarvesterBackupKey(record.Backup.Ref()), string(theirs))
}

// putVolume writes what Longhorn has of a volume.
func putVolume(t testing.TB, store target.Store, name, claim string, blocks int, backups ...string) {
	t.Helper()
	namespace, claim, _ := strings.Cut(claim, "/")
	put(t, store, target.VolumeConfigKey(name), fmt.Sprintf(`{"Name":%q,"Size":"67108864","Labels":{"KubernetesStatus":%q},"BlockCount":"%d","BackingImageName":"\"\""}`,
		name, fmt.Sprintf(`{"namespace":%q,"pvcName":%q}`, namespace, claim), blocks))
	for _, b := range backups {
		put(t, store, target.BackupConfigKey(name, b), `{}`)
	}
	put(t, store, target.VolumePrefix(name)+"blocks/aa/bb/aabb.blk", "block")
}

func putImage(t testing.TB, store target.Store, namespace, name, backingImage string, withData bool) {
	t.Helper()
	content, err := metadata.EncodeHarvesterImage(&metadata.HarvesterImage{Namespace: namespace, Name: name, URL: "s3://b@r/?backingImage=" + backingImage, DisplayName: name + ".img"})
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, metadata.HarvesterImageKey(vmbackup.Ref{Namespace: namespace, Name: name}), string(content))
	if withData {
		put(t, store, target.BackingImageConfigKey(backingImage), `{"Name":"x","Size":"4096","Blocks":[{"Offset":0,"BlockChecksum":"aa"}]}`)
	}
}

func stores() map[string]func(t *testing.T) target.Store {
	return map[string]func(t *testing.T) target.Store{
		"memory":    func(*testing.T) target.Store { return target.NewMemory(noon) },
		"directory": func(t *testing.T) target.Store { return target.NewDirectory(t.TempDir()) },
	}
}

func TestContents(t *testing.T) {
	for name, open := range stores() {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			ref := func(name string) vmbackup.Ref { return vmbackup.Ref{Namespace: "shop", Name: name} }
			putVolume(t, store, "pvc-web", "shop/web-root", 3, "backup-1", "backup-2", "backup-stray")
			putBackup(t, store, machineBackup(ref("web-1"), "web", "pvc-web", "backup-1", 48))
			putBackup(t, store, machineBackup(ref("web-2"), "web", "pvc-web", "backup-2", 1))
			// Its data is gone; the one that still uploads must not have it all yet.
			putBackup(t, store, machineBackup(ref("db-1"), "db", "pvc-db", "backup-gone", 2))
			running := machineBackup(ref("db-2"), "db", "pvc-db", "backup-soon", 0)
			running.Backup.Status.Phase, running.Backup.Status.Ready = vmbackup.PhaseRunning, false
			own, err := metadata.EncodeRecord(running)
			if err != nil {
				t.Fatal(err)
			}
			put(t, store, metadata.RecordKey(ref("db-2")), string(own))
			// Nobody's.
			putVolume(t, store, "pvc-plain", "tools/git", 5, "backup-x", "backup-y")
			put(t, store, target.BackingImageConfigKey("lonely"), `{"Size":"100"}`)
			putImage(t, store, "default", "image-a", "vmi-a", true)
			putImage(t, store, "default", "image-b", "vmi-b", false)
			put(t, store, probeFolder+"left", "probe") // of an interrupted check

			got, err := Contents(t.Context(), store, "default")
			if err != nil {
				t.Fatal(err)
			}
			at := func(hours int) *time.Time {
				t := noon().Add(-time.Duration(hours) * time.Hour)
				return &t
			}
			const block = int64(2 << 20)
			want := vmbackup.TargetContentsStatus{
				Machines: []vmbackup.TargetMachine{
					{Namespace: "shop", Name: "db", Backups: 2, Incomplete: 1, Latest: at(0), Earliest: at(2)},
					{Namespace: "shop", Name: "web", Backups: 2, Latest: at(1), Earliest: at(48), Bytes: 3 * block},
				},
				Images: []vmbackup.TargetImage{
					{Namespace: "default", Name: "image-a", DisplayName: "image-a.img", BackingImage: "vmi-a", State: vmbackup.StateReady, Bytes: 4096},
					{Namespace: "default", Name: "image-b", DisplayName: "image-b.img", BackingImage: "vmi-b", State: vmbackup.StateFailed},
				},
				Backups: 4, Volumes: 2, VolumeBackups: 5, Bytes: 8*block + 4096 + 100,
				Incomplete:      []vmbackup.TargetGap{{Backup: ref("db-1"), Missing: []string{"volume root: Longhorn backup backup-gone"}}},
				IncompleteCount: 1,
				Orphans: []vmbackup.TargetOrphan{
					{Kind: vmbackup.OrphanVolume, Name: "pvc-plain", Claim: "tools/git", Backups: 2, Bytes: 5 * block},
					{Kind: vmbackup.OrphanImage, Name: "lonely", Bytes: 100},
					{Kind: vmbackup.OrphanBackup, Name: "backup-stray", Volume: "pvc-web", Claim: "shop/web-root"},
				},
				OrphanCount: 3, OrphanBytes: 5*block + 100,
			}
			if !reflect.DeepEqual(got.Status, want) {
				t.Errorf("got\n%+v\nwant\n%+v", got.Status, want)
			}
			if !got.Status.Troubled() || got.Spec.URL != store.String() {
				t.Errorf("%+v", got)
			}
			if told := strings.Join(Troubles(got), "\n"); !strings.Contains(told, "shop/db-1 lacks volume root") || !strings.Contains(told, "default/image-b") {
				t.Error(told)
			}
		})
	}
}

// TestContentsWhatStopsHarvester puts every kind of file into Harvester's folders on
// which its discovery stops, and such on which it does not.
func TestContentsWhatStopsHarvester(t *testing.T) {
	good := machineBackup(vmbackup.Ref{Namespace: "shop", Name: "web-1"}, "web", "pvc-web", "backup-1", 1)
	content, err := metadata.EncodeHarvester(good)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) string {
		if !strings.Contains(string(content), from) {
			t.Fatalf("no %s in %s", from, content)
		}
		return strings.Replace(string(content), from, to, 1)
	}
	const theirs = metadata.HarvesterBackupPrefix
	for _, test := range []struct {
		key, content string
		broken       bool
		blocks       bool // in a bucket
		directory    bool // in a directory
	}{
		{key: theirs + "shop/web-1.cfg", content: string(content)},
		{key: theirs + "shop/cut.cfg", content: string(content[:40]), broken: true, blocks: true, directory: true},
		{key: theirs + "shop/empty.cfg", content: "", broken: true, blocks: true, directory: true},
		{key: theirs + "shop/README", content: "hello", broken: true, blocks: true, directory: true},
		{key: theirs + "README", content: "hello", broken: true, blocks: true, directory: true},
		{key: theirs + "shop/old/deep.cfg", content: "hello"},
		{key: theirs + "shop/number.cfg", content: edit(`"volumeName":"root"`, `"volumeName":7`), broken: true, blocks: true, directory: true},
		{key: theirs + "shop/machine.cfg", content: edit(`"template":{`, `"template":[],"x":{`), broken: true, blocks: true, directory: true},
		// Harvester takes what this tool does not.
		{key: theirs + "shop/notes.txt", content: "{}", broken: true},
		{key: theirs + "shop/another.cfg", content: string(content), broken: true},
		{key: metadata.HarvesterImagePrefix + "default/bad.cfg", content: "<xml/>", broken: true, blocks: true, directory: true},
		{key: metadata.HarvesterImagePrefix + "default/deep/x.cfg", content: "{}", broken: true, blocks: true, directory: true},
		{key: metadata.HarvesterImagePrefix + "x.cfg", content: "{}", broken: false, directory: true},
		// The tool's own stops nobody.
		{key: metadata.RecordPrefix + "shop/cut.json", content: "{", broken: true},
		{key: metadata.RecordPrefix + "shop/notes.txt", content: "hello"},
	} {
		for name, open := range stores() {
			t.Run(test.key+" in "+name, func(t *testing.T) {
				store := open(t)
				putVolume(t, store, "pvc-web", "shop/web-root", 1, "backup-1")
				put(t, store, test.key, test.content)
				got, err := Contents(t.Context(), store, "default")
				if err != nil {
					t.Fatal(err)
				}
				blocks, broken := test.blocks, test.broken
				if name == "directory" {
					blocks, broken = test.directory, test.broken || test.directory
				}
				s := got.Status
				if s.BlocksHarvester != blocks || (s.BrokenCount == 1) != broken || s.BrokenCount > 1 {
					t.Fatalf("blocks %v, broken %+v; want %v, %v", s.BlocksHarvester, s.Broken, blocks, broken)
				}
				if broken && (s.Broken[0].Path != test.key || s.Broken[0].Reason == "" || s.Broken[0].BlocksHarvester != blocks) {
					t.Errorf("%+v", s.Broken[0])
				}
			})
		}
	}
}

// TestContentsBadStore has files of Longhorn's that cannot be read; none hides anything.
func TestContentsBadStore(t *testing.T) {
	store := target.NewMemory(noon)
	putVolume(t, store, "pvc-web", "shop/web-root", 1, "backup-1")
	putBackup(t, store, machineBackup(vmbackup.Ref{Namespace: "shop", Name: "web-1"}, "web", "pvc-web", "backup-1", 1))
	put(t, store, target.VolumeConfigKey("pvc-bad"), "no JSON")
	put(t, store, target.BackupConfigKey("pvc-bare", "backup-1"), "{}")
	put(t, store, target.BackingImagesPrefix+"folder/other", "x")
	put(t, store, target.BackingImageConfigKey("bad"), "no JSON")
	put(t, store, target.VolumesPrefix+"00/00/misplaced/volume.cfg", "{}")
	big := machineBackup(vmbackup.Ref{Namespace: "shop", Name: "web-2"}, "web", "pvc-web", "backup-1", 1)
	put(t, store, metadata.RecordKey(big.Backup.Ref()), strings.Repeat("x", metadata.FileLimit+1))
	got, err := Contents(t.Context(), store, "default")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range got.Status.Broken {
		paths = append(paths, f.Path)
	}
	want := []string{target.BackingImageConfigKey("bad"), target.VolumeConfigKey("pvc-bad"), target.VolumeConfigKey("pvc-bare"), metadata.RecordKey(big.Backup.Ref())}
	slices.Sort(want)
	if !slices.Equal(paths, want) || got.Status.Backups != 1 || got.Status.Volumes != 3 || got.Status.BlocksHarvester {
		t.Errorf("broken %q, want %q; %+v", paths, want, got.Status)
	}
}

func TestContentsOfATargetThatIsAway(t *testing.T) {
	if _, err := Contents(t.Context(), target.NewDirectory(t.TempDir()+"/none"), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable {
		t.Error(err)
	}
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), backupTarget("share", "nfs://10.0.0.5:/export/b"), backupTarget("unset", ""), secret("default-keys"))
	if got, err := c.Contents(t.Context(), "default"); err != nil || got.Metadata.Name != "default" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Contents(t.Context(), "unset"); vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable {
		t.Error(err)
	}
	_, err := c.Contents(t.Context(), "share")
	e := vmbackup.AsError(err, "")
	if e == nil || e.Reason != vmbackup.ReasonStorageUnsupported || !e.Preflight {
		t.Fatal(err)
	}
	for _, part := range []string{"kubectl exec -n longhorn-system ds/longhorn-manager -c longhorn-manager -- sh -c 'cd /var/lib/longhorn-backupstore-mounts/10_0_0_5/export/b && ", "--url file:///MOUNTPOINT", "zip -qr - . -x"} {
		if !strings.Contains(e.Hint, part) {
			t.Errorf("%q is not in %s", part, e.Hint)
		}
	}

	c.add(backupTarget("blobs", "azblob://container@core.windows.net/"))
	_, err = c.Contents(t.Context(), "blobs")
	if e := vmbackup.AsError(err, ""); e == nil || e.Reason != vmbackup.ReasonStorageUnsupported || !e.Preflight || !strings.Contains(e.Hint, "target sync blobs") {
		t.Error(err)
	}
	// Once a node looks after it, the pod there is named, or how it is found.
	owned := backupTarget("owned", "cifs://files.example.org/share")
	owned.Status.OwnerID = "node-2"
	c.add(owned)
	_, err = c.Contents(t.Context(), "owned")
	if e := vmbackup.AsError(err, ""); !strings.Contains(e.Hint, "$(kubectl get pods -n longhorn-system -l app=longhorn-manager --field-selector spec.nodeName=node-2 -o name)") ||
		!strings.Contains(e.Hint, "/var/lib/longhorn-backupstore-mounts/files_example_org/share") {
		t.Error(e.Hint)
	}
	if err := c.core.Tracker().Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: "longhorn-manager-x", Labels: map[string]string{"app": "longhorn-manager"}}}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Contents(t.Context(), "owned")
	if e := vmbackup.AsError(err, ""); !strings.Contains(e.Hint, "kubectl exec -n longhorn-system longhorn-manager-x -c") {
		t.Error(e.Hint)
	}
}
