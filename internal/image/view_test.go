// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// backing is a backing image of shop/ubuntu, a disk a state.
func backing(states ...longhornv1.BackingImageState) *longhornv1.BackingImage {
	bi := &longhornv1.BackingImage{}
	bi.Name = "vmi-1"
	bi.Annotations = map[string]string{AnnotationImage: "shop/ubuntu"}
	bi.Spec.SourceType = longhornv1.BackingImageDataSourceTypeDownload
	bi.Spec.SourceParameters = map[string]string{"url": "https://me:secret@example.com/ubuntu.img"}
	bi.Spec.MinNumberOfCopies = 2
	bi.Spec.DiskFileSpecMap = map[string]*longhornv1.BackingImageDiskFileSpec{}
	bi.Status.DiskFileStatusMap = map[string]*longhornv1.BackingImageDiskFileStatus{}
	for i, s := range states {
		disk := string(rune('a' + i))
		bi.Spec.DiskFileSpecMap[disk] = &longhornv1.BackingImageDiskFileSpec{}
		bi.Status.DiskFileStatusMap[disk] = &longhornv1.BackingImageDiskFileStatus{State: s, Progress: 100, Message: "why " + disk}
	}
	return bi
}

func class(name, image string) storagev1.StorageClass {
	return storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: Driver, Parameters: map[string]string{"backingImage": image},
	}
}

func TestPhase(t *testing.T) {
	const (
		none     = longhornv1.BackingImageState("")
		pending  = longhornv1.BackingImageStatePending
		coming   = longhornv1.BackingImageStateInProgress
		transfer = longhornv1.BackingImageStateReadyForTransfer
		ready    = longhornv1.BackingImageStateReady
		failed   = longhornv1.BackingImageStateFailed
		cleaned  = longhornv1.BackingImageStateFailedAndCleanUp
		unknown  = longhornv1.BackingImageStateUnknown
	)
	for name, test := range map[string]struct {
		states   []longhornv1.BackingImageState
		phase    vmbackup.ImagePhase
		ready    int
		total    int
		progress int
	}{
		"just made":                     {nil, vmbackup.ImageInProgress, 0, 2, 0},
		"nothing said yet":              {[]longhornv1.BackingImageState{none, pending}, vmbackup.ImageInProgress, 0, 2, 99},
		"on its way":                    {[]longhornv1.BackingImageState{coming}, vmbackup.ImageInProgress, 0, 2, 99},
		"there, but not at its place":   {[]longhornv1.BackingImageState{transfer}, vmbackup.ImageInProgress, 0, 2, 99},
		"one replica is enough":         {[]longhornv1.BackingImageState{ready, coming}, vmbackup.ImageImported, 1, 2, 100},
		"one is ready, the other broke": {[]longhornv1.BackingImageState{failed, ready, unknown}, vmbackup.ImageImported, 1, 3, 100},
		"one broke, one may come":       {[]longhornv1.BackingImageState{failed, coming}, vmbackup.ImageInProgress, 0, 2, 99},
		"all broke":                     {[]longhornv1.BackingImageState{failed, cleaned}, vmbackup.ImageFailed, 0, 2, 99},
		"nothing is known":              {[]longhornv1.BackingImageState{unknown, failed}, vmbackup.ImageUnknown, 0, 2, 99},
	} {
		t.Run(name, func(t *testing.T) {
			inv := &inventory{images: []longhornv1.BackingImage{*backing(test.states...)}}
			s := inv.views()[0].Status
			if s.Phase != test.phase || s.ReadyReplicas != test.ready || s.TotalReplicas != test.total || s.Progress != test.progress || s.Ready != (test.ready > 0) {
				t.Errorf("%s %d/%d %d%% ready=%v, want %+v", s.Phase, s.ReadyReplicas, s.TotalReplicas, s.Progress, s.Ready, test)
			}
			if told := s.Error != nil && strings.Contains(s.Error.Message, "why a") && s.Error.Hint != ""; told != (s.Phase == vmbackup.ImageFailed) {
				t.Errorf("error %+v of an image that is %s", s.Error, s.Phase)
			}
			if some := slices.ContainsFunc(test.states, func(s longhornv1.BackingImageState) bool { return s == failed || s == unknown }); s.Ready && some != (len(s.Warnings) == 1) {
				t.Errorf("warnings %q", s.Warnings)
			}
		})
	}
	gone := backing(ready)
	gone.DeletionTimestamp = &metav1.Time{}
	if s := (&inventory{images: []longhornv1.BackingImage{*gone}}).views()[0].Status; s.Phase != vmbackup.ImageDeleting || s.Ready {
		t.Errorf("an image that is deleted: %s, ready %v", s.Phase, s.Ready)
	}
}

// TestUsers shows who counts as a user: volumes, claims with or without a volume,
// machines by claim, data volume or template, and other classes.
func TestUsers(t *testing.T) {
	claim := func(name, class string) corev1.PersistentVolumeClaim {
		c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		c.Spec.StorageClassName = &class
		return c
	}
	volume := func(name, image, pvc, went string) longhornv1.Volume {
		v := longhornv1.Volume{ObjectMeta: metav1.ObjectMeta{Name: name}}
		v.Spec.BackingImage = image
		v.Status.KubernetesStatus = longhornv1.KubernetesStatus{Namespace: "shop", PVCName: pvc, LastPVCRefAt: went}
		return v
	}
	machine := func(name string, v kubevirtv1.VolumeSource) kubevirtv1.VirtualMachine {
		vm := kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		vm.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{}
		vm.Spec.Template.Spec.Volumes = []kubevirtv1.Volume{{Name: "root", VolumeSource: v}}
		return vm
	}
	pvc := func(name string) kubevirtv1.VolumeSource {
		return kubevirtv1.VolumeSource{PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{
			PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}}
	}
	foreign := class("not-longhorn", "vmi-1")
	foreign.Provisioner = "other"
	inv := &inventory{
		images: []longhornv1.BackingImage{*backing(longhornv1.BackingImageStateReady)},
		classes: []storagev1.StorageClass{
			class("longhorn-ubuntu", "vmi-1"), class("fast", "vmi-1"), class("else", "vmi-2"), foreign,
		},
		volumes: []longhornv1.Volume{
			volume("pvc-1", "vmi-1", "web-root", ""), volume("pvc-2", "vmi-1", "gone", "2026-01-01T00:00:00Z"), volume("pvc-3", "vmi-2", "other", ""),
		},
		claims: []corev1.PersistentVolumeClaim{claim("waits", "fast"), claim("other", "else"), claim("foreign", "not-longhorn")},
		machines: []kubevirtv1.VirtualMachine{
			machine("web", pvc("web-root")), machine("late", kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "waits"}}),
			machine("else", pvc("other")), machine("was", pvc("gone")),
		},
	}
	s := inv.views()[0].Status
	for what, got := range map[string][2][]string{
		"volumes":  {s.Users.Volumes, {"pvc-1", "pvc-2"}},
		"claims":   {s.Users.Claims, {"shop/waits", "shop/web-root"}},
		"machines": {s.Users.Machines, {"shop/late", "shop/web"}},
		"classes":  {s.Users.StorageClasses, {"fast"}},
	} {
		if !slices.Equal(got[0], got[1]) {
			t.Errorf("%s %q, want %q", what, got[0], got[1])
		}
	}
	if s.StorageClass != "longhorn-ubuntu" {
		t.Errorf("its own class is %q", s.StorageClass)
	}
	inv.unseen = []string{kindVolumes}
	if got := inv.views()[0].Status.Users.Unseen; !slices.Equal(got, []string{kindVolumes}) || len(inv.warnings()) != 1 {
		t.Errorf("unseen %q, warnings %q", got, inv.warnings())
	}
}

func TestSourcesShowNoPassword(t *testing.T) {
	view := (&inventory{images: []longhornv1.BackingImage{*backing()}}).views()[0]
	if url := view.Spec.Source.URL; url != "https://me:xxxxx@example.com/ubuntu.img" {
		t.Errorf("URL %q", url)
	}
	if view.Ref().String() != "shop/ubuntu" || view.Status.BackingImage != "vmi-1" {
		t.Errorf("it is called %s", view.Ref())
	}
	bare := backing()
	bare.Annotations = map[string]string{AnnotationImage: "nonsense"}
	if got := (&inventory{images: []longhornv1.BackingImage{*bare}}).views()[0].Ref(); got != (vmbackup.Ref{Name: "vmi-1"}) {
		t.Errorf("without a name of its own it is called %s", got)
	}
}

func TestHarvesterView(t *testing.T) {
	conditions := func(pairs ...string) (list []harvester.Condition) {
		for i := 0; i < len(pairs); i += 3 {
			list = append(list, harvester.Condition{Type: pairs[i], Status: corev1.ConditionStatus(pairs[i+1]), Message: pairs[i+2]})
		}
		return list
	}
	const ready, failed, coming = longhornv1.BackingImageStateReady, longhornv1.BackingImageStateFailed, longhornv1.BackingImageStateInProgress
	for name, test := range map[string]struct {
		backing    *longhornv1.BackingImage
		conditions []harvester.Condition
		backend    string
		unseen     []string
		phase      vmbackup.ImagePhase
		says       string
	}{
		"imported":                  {backing(ready), conditions("Imported", "True", ""), "", nil, vmbackup.ImageImported, ""},
		"coming":                    {backing(coming), conditions("Imported", "Unknown", ""), "", nil, vmbackup.ImageInProgress, ""},
		"tried again":               {backing(failed), conditions("Imported", "False", "404"), "", nil, vmbackup.ImageInProgress, "tries again"},
		"given up":                  {backing(failed), conditions("Imported", "False", "404", "RetryLimitExceeded", "True", "it said 404"), "", nil, vmbackup.ImageFailed, "it said 404"},
		"its backing image is lost": {nil, conditions("Imported", "True", ""), "", nil, vmbackup.ImageMissing, "does not exist"},
		"not begun":                 {nil, nil, "", nil, vmbackup.ImageInProgress, ""},
		"another backend":           {nil, conditions("Imported", "True", ""), "cdi", nil, vmbackup.ImageImported, ""},
		"may not be seen":           {nil, conditions("Imported", "True", ""), "", []string{kindBackingImages}, vmbackup.ImageUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := harvester.VirtualMachineImage{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ubuntu", UID: "1"}}
			vmi.Spec.SourceType, vmi.Spec.URL, vmi.Spec.Backend, vmi.Spec.DisplayName = "download", "https://example.com/u", test.backend, "Ubuntu 24.04"
			vmi.Status.Conditions, vmi.Status.StorageClassName = test.conditions, "lh-1"
			inv := &inventory{vmImages: []harvester.VirtualMachineImage{vmi}, classes: []storagev1.StorageClass{class("lh-1", "vmi-1")}, unseen: test.unseen}
			if test.backing != nil {
				inv.images = []longhornv1.BackingImage{*test.backing}
			}
			views := inv.views()
			if len(views) != 1 {
				t.Fatalf("%d images, want one: Harvester's and its backing image are the same", len(views))
			}
			s := views[0].Status
			told := strings.Join(s.Warnings, "\n")
			if s.Error != nil {
				told += s.Error.Message
			}
			if s.Phase != test.phase || s.Ready != (test.phase == vmbackup.ImageImported) || !strings.Contains(told, test.says) || (test.says == "" && told != "") {
				t.Errorf("%s, ready %v, told %q; want %s, %q", s.Phase, s.Ready, told, test.phase, test.says)
			}
			if s.StorageClass != "lh-1" || s.Engine != vmbackup.EngineHarvester || len(s.Users.StorageClasses) > 0 {
				t.Errorf("class %q, engine %q, other classes %q", s.StorageClass, s.Engine, s.Users.StorageClasses)
			}
		})
	}
}

func TestBackupOfAnImage(t *testing.T) {
	backup := func(target string, state longhornv1.BackupState) longhornv1.BackupBackingImage {
		b := longhornv1.BackupBackingImage{}
		b.Spec.BackingImage, b.Spec.BackupTargetName = "vmi-1", target
		b.Status.State, b.Status.Error = state, "no room"
		return b
	}
	pulled := longhornv1.BackupBackingImage{}
	pulled.Status.BackingImage, pulled.Status.State = "vmi-1", longhornv1.BackupStateCompleted
	for name, test := range map[string]struct {
		backups []longhornv1.BackupBackingImage
		state   vmbackup.State
	}{
		"none":                {nil, ""},
		"runs":                {[]longhornv1.BackupBackingImage{backup("default", longhornv1.BackupStateInProgress)}, vmbackup.StateRunning},
		"failed":              {[]longhornv1.BackupBackingImage{backup("default", longhornv1.BackupStateError)}, vmbackup.StateFailed},
		"whole on one target": {[]longhornv1.BackupBackingImage{backup("b", longhornv1.BackupStateError), backup("a", longhornv1.BackupStateCompleted)}, vmbackup.StateReady},
		"read from a target":  {[]longhornv1.BackupBackingImage{pulled}, vmbackup.StateReady},
	} {
		if got := (&inventory{backups: test.backups}).backupOf("vmi-1"); got.State != test.state {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := (&inventory{unseen: []string{kindImageBackups}}).backupOf("vmi-1"); got.State != vmbackup.StateUnknown {
		t.Errorf("not seen: %+v", got)
	}
}

func TestRemedies(t *testing.T) {
	for why, reason := range map[string]vmbackup.Reason{
		"the expected checksum a doesn't match the actual checksum b": vmbackup.ReasonSourceMismatch,
		"write /data/tmp: no space left on device":                    vmbackup.ReasonQuotaExceeded,
		"expected status code 200 from http://x/y, got 404":           vmbackup.ReasonNotFound,
		"dial tcp 10.0.0.1:80: connect: connection refused":           vmbackup.ReasonNotFound,
		"it fell over": vmbackup.ReasonInternal,
	} {
		if got, hint := remedy(vmbackup.ImageDownload, why); got != reason || hint == "" {
			t.Errorf("%s: %s, %q", why, got, hint)
		}
	}
}
