// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// harvesterBackup is a backup of Harvester's with the machine's volumes and those that it holds.
func harvesterBackup(t *testing.T, volumes string, held ...string) *hv.VirtualMachineBackup {
	t.Helper()
	ready := true
	b := &hv.VirtualMachineBackup{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "nightly"}}
	b.Spec.Source.Name = "web"
	b.Status.ReadyToUse = &ready
	b.Status.SourceSpec = &hv.SourceSpec{Spec: json.RawMessage(`{"template":{"spec":{"volumes":[` + volumes + `]}}}`)}
	for _, name := range held {
		backup := "backup-" + name
		b.Status.VolumeBackups = append(b.Status.VolumeBackups, hv.VolumeBackup{Name: &backup, VolumeName: name, LonghornBackupName: &backup})
	}
	return b
}

const rootClaim = `{"name":"root","persistentVolumeClaim":{"claimName":"web-root"}}`

func TestUnservable(t *testing.T) {
	plain := vmbackup.RestoreRequest{Backup: vmbackup.Ref{Namespace: "shop", Name: "nightly"}}.Default()
	for name, test := range map[string]struct {
		change func(*vmbackup.RestoreRequest)
		says   string
	}{
		"plain":           {func(*vmbackup.RestoreRequest) {}, ""},
		"another name":    {func(r *vmbackup.RestoreRequest) { r.ToName, r.ToNamespace = "copy", "other" }, ""},
		"identity":        {func(r *vmbackup.RestoreRequest) { r.NewIdentity = true }, ""},
		"from cluster":    {func(r *vmbackup.RestoreRequest) { r.From = vmbackup.SourceCluster }, ""},
		"StorageClass":    {func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"a": "b"} }, "--map-storage-class"},
		"network":         {func(r *vmbackup.RestoreRequest) { r.Networks = map[string]string{"a": "b"} }, "--map-network"},
		"incomplete":      {func(r *vmbackup.RestoreRequest) { r.AllowIncomplete = true }, "--allow-incomplete"},
		"from target":     {func(r *vmbackup.RestoreRequest) { r.From = vmbackup.SourceTarget }, "--from target"},
		"another target":  {func(r *vmbackup.RestoreRequest) { r.Target = "second" }, "second"},
		"several, sorted": {func(r *vmbackup.RestoreRequest) { r.AllowIncomplete, r.Networks = true, map[string]string{"a": "b"} }, "--allow-incomplete, --map-network"},
	} {
		req := plain
		test.change(&req)
		if got := unservable(req); (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
			t.Errorf("%s: %q, want %q in it", name, got, test.says)
		}
	}
}

// A machine whose volume Harvester does not know would share a disk with its source.
func TestLeftBehind(t *testing.T) {
	for name, test := range map[string]struct {
		volumes string
		held    []string
		says    string
	}{
		"all held":       {rootClaim, []string{"root"}, ""},
		"no disk at all": {`{"name":"ci","cloudInitNoCloud":{}}`, nil, ""},
		"a DataVolume":   {rootClaim + `,{"name":"data","dataVolume":{"name":"web-data"}}`, []string{"root"}, "data is a DataVolume"},
		"not held":       {rootClaim + `,{"name":"late","persistentVolumeClaim":{"claimName":"late"}}`, []string{"root"}, "does not hold volume late"},
		"ephemeral":      {`{"name":"scratch","ephemeral":{"persistentVolumeClaim":{"claimName":"x"}}}`, nil, "scratch"},
		"a memory dump":  {`{"name":"dump","memoryDump":{"claimName":"x"}}`, nil, "dump"},
	} {
		if got := leftBehind(harvesterBackup(t, test.volumes, test.held...)); (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
			t.Errorf("%s: %q, want %q in it", name, got, test.says)
		}
	}
}

func TestReadyFor(t *testing.T) {
	here := vmbackup.RestoreRequest{Backup: vmbackup.Ref{Namespace: "shop", Name: "nightly"}}.Default()
	elsewhere := here
	elsewhere.ToNamespace = "other"
	unnamed := harvesterBackup(t, rootClaim, "root")
	unnamed.Status.VolumeBackups[0].LonghornBackupName = nil
	snapshot := harvesterBackup(t, rootClaim, "root")
	snapshot.Spec.Type = hv.TypeSnapshot
	going := harvesterBackup(t, rootClaim, "root")
	now := metav1.Now()
	going.DeletionTimestamp = &now
	for name, test := range map[string]struct {
		backup *hv.VirtualMachineBackup
		req    vmbackup.RestoreRequest
		want   vmbackup.Reason
	}{
		"whole, here":                        {harvesterBackup(t, rootClaim, "root"), here, ""},
		"whole, elsewhere":                   {harvesterBackup(t, rootClaim, "root"), elsewhere, ""},
		"without longhornBackupName, here":   {unnamed, here, ""},
		"without longhornBackupName, abroad": {unnamed, elsewhere, vmbackup.ReasonDataLost},
		"a snapshot, here":                   {snapshot, here, ""},
		"a snapshot, elsewhere":              {snapshot, elsewhere, vmbackup.ReasonStorageUnsupported},
		"deleted":                            {going, here, vmbackup.ReasonConflict},
	} {
		if got := vmbackup.ReasonOf(readyFor(test.backup, test.req)); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// What Harvester's webhook says has reasons and hints of the tool's, and an error of
// the API server stays what it is.
func TestDenied(t *testing.T) {
	said := func(text string) error {
		return apierrors.NewInternalError(errors.New(`admission webhook "validator.harvesterhci.io" denied the request: ` + text))
	}
	for text, want := range map[string]vmbackup.Reason{
		"Internal error occurred: Source schedule shop/nightly is running":                          vmbackup.ReasonConflict,
		`Please stop the VM "web" before doing a restore`:                                           vmbackup.ReasonVMRunning,
		"Please wait for the previous VM restore on the shop/web to be complete first.":             vmbackup.ReasonConflict,
		"failed to get network attachment definition default/vlan1, err: not found":                 vmbackup.ReasonNetworkMissing,
		"can't get volumeSnapshotClass longhorn for driver driver.longhorn.io":                      vmbackup.ReasonStorageUnsupported,
		"can't restore the new vm with the same macaddress because the source vm is still existent": vmbackup.ReasonConflict,
		"backup target is not set":           vmbackup.ReasonTargetUnavailable,
		"VMBackup shop/nightly is not ready": vmbackup.ReasonConflict,
		"VM web is already exists":           vmbackup.ReasonAlreadyExists,
		"Internal error occurred: Failed to restore the new vm, err: limit.memory resource is not enough": vmbackup.ReasonQuotaExceeded,
	} {
		err := denied(said(text), vmbackup.Ref{Namespace: "shop", Name: "r"}, &hv.VirtualMachineRestoreSpec{VirtualMachineBackupNamespace: "shop", VirtualMachineBackupName: "nightly"})
		e := vmbackup.AsError(err, "")
		if e.Reason != want || e.Hint == "" || strings.Contains(e.Message, "denied the request") {
			t.Errorf("%s: %s, %q, hint %q", text, e.Reason, e.Message, e.Hint)
		}
	}
	forbidden := apierrors.NewForbidden(hv.GroupVersion().WithResource(hv.RestoreResource).GroupResource(), "r", errors.New("no"))
	if err := denied(forbidden, vmbackup.Ref{}, &hv.VirtualMachineRestoreSpec{}); !apierrors.IsForbidden(err) {
		t.Errorf("a missing right became %v", err)
	}
}

// A restore in place writes over the Secrets of the machine: what has changed in them
// since the backup would be lost.
func TestOverwritten(t *testing.T) {
	b := harvesterBackup(t, rootClaim, "root")
	for _, name := range []string{"same", "changed", "gone", "grown"} {
		b.Status.SecretBackups = append(b.Status.SecretBackups, hv.SecretBackup{Name: name, Data: map[string][]byte{"key": []byte("then")}})
	}
	got := overwritten(b, map[string]map[string][]byte{
		"same": {"key": []byte("then")}, "changed": {"key": []byte("now")}, "grown": {"key": []byte("then"), "more": nil},
	})
	if strings.Join(got, " ") != "changed grown" {
		t.Errorf("%q", got)
	}
}

func TestCannotIsKnown(t *testing.T) {
	err := cannot(vmbackup.Ref{Namespace: "shop", Name: "nightly"}, "it is Tuesday")
	why := UnfitFor(preflight(err))
	if why != "it is Tuesday" || !vmbackup.AsError(err, "").Preflight {
		t.Errorf("%q %v", why, err)
	}
	if UnfitFor(vmbackup.Errorf(vmbackup.ReasonConflict, "no")) != "" {
		t.Error("any error is an inability")
	}
}

// The names are those of Harvester 1.8.2.
func TestHarvestersNames(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{secretName("copy", "app-init"), "vm-copy-59baa07a-ref"},
		{claimName("shop/nightly", "uid", "root"), "restore-nightly-uid-root"},
		{concatenated("restore", "shop", "r", "v"), "restore-shop-r-v"},
	} {
		if test.got != test.want {
			t.Errorf("%s, want %s", test.got, test.want)
		}
	}
	long := concatenated("restore", strings.Repeat("n", 30), strings.Repeat("r", 30), "v")
	if len(long) != 63 || !strings.HasPrefix(long, "restore-nnn") {
		t.Errorf("%q", long)
	}
	if cut := concatenated("restore", strings.Repeat("n", 48), "rest"); len(cut) != 61 && len(cut) > 63 {
		t.Errorf("%q", cut)
	}
}

func TestRemedies(t *testing.T) {
	for complaint, says := range map[string]string{
		`volumesnapshotcontents "restore-a-b" already exists (volumesnapshotcontent)`: "kubectl delete volumesnapshotcontents",
		`exceeded quota: q`:                         "ResourceQuota",
		`storageclass.storage.k8s.io "x" not found`: "--map-storage-class",
		`something else`:                            "kubectl get events",
	} {
		if got := remedy(complaint); !strings.Contains(got, says) {
			t.Errorf("%s: %q", complaint, got)
		}
	}
}
