// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var morning = time.Date(2026, 3, 1, 7, 8, 9, 0, time.FixedZone("CET", 3600))

func backupRequest() vmbackup.BackupRequest {
	return vmbackup.BackupRequest{Namespace: "demo", VM: "web"}.Default(morning)
}

func TestBackupRequestDefaults(t *testing.T) {
	want := vmbackup.BackupRequest{
		Name: "web-20260301-060809", Namespace: "demo", VM: "web", Type: vmbackup.TypeBackup,
		Quiesce: vmbackup.QuiesceAuto, FreezeTimeout: 30 * time.Second,
	}
	got := backupRequest()
	if got != want {
		t.Errorf("%+v", got)
	}
	if again := got.Default(morning.Add(time.Hour)); again != got {
		t.Errorf("what is set was changed: %+v", again)
	}
	if got := (vmbackup.BackupRequest{}).Default(morning); got.Name != "" {
		t.Errorf("a name for no machine: %q", got.Name)
	}
	if got.Ref() != (vmbackup.Ref{Namespace: "demo", Name: want.Name}) {
		t.Error(got.Ref())
	}
}

// refused checks that a request is an InvalidRequest error that names the field,
// or is taken when says is empty.
func refused(t *testing.T, name string, err error, says string) {
	t.Helper()
	if says == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	e := vmbackup.AsError(err, "")
	if e == nil || e.Reason != vmbackup.ReasonInvalidRequest || !e.Preflight || !strings.Contains(e.Message, says) {
		t.Errorf("%s: want InvalidRequest of %q, got %+v", name, says, e)
	}
}

func TestBackupRequestValidation(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*vmbackup.BackupRequest)
		says string
	}{
		"as it is":           {func(*vmbackup.BackupRequest) {}, ""},
		"snapshot":           {func(r *vmbackup.BackupRequest) { r.Type = vmbackup.TypeSnapshot }, ""},
		"dots":               {func(r *vmbackup.BackupRequest) { r.Name = "a.b-c.9" }, ""},
		"longest name":       {func(r *vmbackup.BackupRequest) { r.Name = strings.Repeat("a", vmbackup.MaxNameLength) }, ""},
		"target":             {func(r *vmbackup.BackupRequest) { r.Target = "second" }, ""},
		"no machine":         {func(r *vmbackup.BackupRequest) { r.VM = "" }, "virtual machine name is missing"},
		"no namespace":       {func(r *vmbackup.BackupRequest) { r.Namespace = "" }, "namespace is missing"},
		"long namespace":     {func(r *vmbackup.BackupRequest) { r.Namespace = strings.Repeat("a", 64) }, "longer than 63"},
		"no name":            {func(r *vmbackup.BackupRequest) { r.Name = "" }, "backup name is missing"},
		"long name":          {func(r *vmbackup.BackupRequest) { r.Name = strings.Repeat("a", vmbackup.MaxNameLength+1) }, "longer than 180"},
		"upper case":         {func(r *vmbackup.BackupRequest) { r.Name = "B1" }, `backup name "B1"`},
		"path":               {func(r *vmbackup.BackupRequest) { r.Name = "../b1" }, "backup name"},
		"ends in a dash":     {func(r *vmbackup.BackupRequest) { r.Name = "b1-" }, "backup name"},
		"two dots":           {func(r *vmbackup.BackupRequest) { r.Name = "b..1" }, "backup name"},
		"line break":         {func(r *vmbackup.BackupRequest) { r.Name = "b1\n" }, "backup name"},
		"type":               {func(r *vmbackup.BackupRequest) { r.Type = "full" }, `type "full"`},
		"quiesce":            {func(r *vmbackup.BackupRequest) { r.Quiesce = "maybe" }, `policy "maybe"`},
		"short freeze":       {func(r *vmbackup.BackupRequest) { r.FreezeTimeout = time.Second - 1 }, "freeze time-out"},
		"shortest freeze":    {func(r *vmbackup.BackupRequest) { r.FreezeTimeout = time.Second }, ""},
		"longest freeze":     {func(r *vmbackup.BackupRequest) { r.FreezeTimeout = vmbackup.MaxFreezeTimeout }, ""},
		"long freeze":        {func(r *vmbackup.BackupRequest) { r.FreezeTimeout = vmbackup.MaxFreezeTimeout + 1 }, "freeze time-out"},
		"target with spaces": {func(r *vmbackup.BackupRequest) { r.Target = "a b" }, `target "a b"`},
	} {
		r := backupRequest()
		tc.edit(&r)
		refused(t, name, r.Validate(), tc.says)
	}
}

func TestRestoreRequestDefaults(t *testing.T) {
	ref := vmbackup.Ref{Namespace: "demo", Name: "b1"}
	got := vmbackup.RestoreRequest{Backup: ref}.Default()
	want := vmbackup.RestoreRequest{
		Backup: ref, From: vmbackup.SourceAll, ToNamespace: "demo", MAC: vmbackup.MACAuto, Start: vmbackup.StartAuto, Target: "default",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	set := vmbackup.RestoreRequest{
		Name: "r", Backup: ref, From: vmbackup.SourceTarget, ToNamespace: "other", ToName: "x",
		MAC: vmbackup.MACNew, Start: vmbackup.StartNo, Target: "second",
	}
	if got := set.Default(); !reflect.DeepEqual(got, set) {
		t.Errorf("what is set was changed: %+v", got)
	}
}

func TestRestoreRequestValidation(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*vmbackup.RestoreRequest)
		says string
	}{
		"as it is":                {func(*vmbackup.RestoreRequest) {}, ""},
		"names":                   {func(r *vmbackup.RestoreRequest) { r.Name, r.ToName = "r1", "copy" }, ""},
		"no backup":               {func(r *vmbackup.RestoreRequest) { r.Backup.Name = "" }, "backup name is missing"},
		"backup namespace":        {func(r *vmbackup.RestoreRequest) { r.Backup.Namespace = "De mo" }, "backup namespace"},
		"no namespace":            {func(r *vmbackup.RestoreRequest) { r.ToNamespace = "" }, "target namespace is missing"},
		"machine name":            {func(r *vmbackup.RestoreRequest) { r.ToName = "Copy" }, "target name"},
		"long machine":            {func(r *vmbackup.RestoreRequest) { r.ToName = strings.Repeat("a", 64) }, "longer than 63"},
		"restore name":            {func(r *vmbackup.RestoreRequest) { r.Name = "r_1" }, "restore name"},
		"source":                  {func(r *vmbackup.RestoreRequest) { r.From = "moon" }, `"moon"`},
		"no target":               {func(r *vmbackup.RestoreRequest) { r.Target = "" }, "target is missing"},
		"in place":                {func(r *vmbackup.RestoreRequest) { r.InPlace, r.Stop, r.DeleteOldVolumes = true, true, true }, ""},
		"in place, named":         {func(r *vmbackup.RestoreRequest) { r.InPlace, r.ToName = true, "copy" }, "keeps the machine's name"},
		"in place, moved":         {func(r *vmbackup.RestoreRequest) { r.InPlace, r.ToNamespace = true, "other" }, "keeps the machine's name"},
		"in place, new namespace": {func(r *vmbackup.RestoreRequest) { r.InPlace, r.CreateNamespace = true, true }, "none to create"},
		"in place, incomplete":    {func(r *vmbackup.RestoreRequest) { r.InPlace, r.AllowIncomplete = true, true }, "needs a whole backup"},
		"in place, new identity":  {func(r *vmbackup.RestoreRequest) { r.InPlace, r.NewIdentity = true, true }, "keeps its identity"},
		"old volumes, not started": {func(r *vmbackup.RestoreRequest) {
			r.InPlace, r.DeleteOldVolumes, r.Start = true, true, vmbackup.StartNo
		}, "allowed to start"},
		"stop alone":        {func(r *vmbackup.RestoreRequest) { r.Stop = true }, "in place only"},
		"old volumes alone": {func(r *vmbackup.RestoreRequest) { r.DeleteOldVolumes = true }, "in place only"},
		"MAC policy":        {func(r *vmbackup.RestoreRequest) { r.MAC = "random" }, `MAC policy "random"`},
		"start policy":      {func(r *vmbackup.RestoreRequest) { r.Start = "later" }, `start policy "later"`},
		"maps": {func(r *vmbackup.RestoreRequest) {
			r.StorageClasses, r.Networks = map[string]string{"a": "b"}, map[string]string{"default/vlan1": "vlan2"}
		}, ""},
		"class to nothing":   {func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"a": ""} }, "StorageClass mapped to is missing"},
		"class from nothing": {func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"": "b"} }, "mapped StorageClass is missing"},
		"network":            {func(r *vmbackup.RestoreRequest) { r.Networks = map[string]string{"a/b/c": "d"} }, `network "a/b/c"`},
		"patch":              {func(r *vmbackup.RestoreRequest) { r.Patch = []byte(`[{"op":"remove","path":"/spec/x"}]`) }, ""},
		"patch of no list":   {func(r *vmbackup.RestoreRequest) { r.Patch = []byte(`{"spec":{}}`) }, "not a JSON patch"},
		"patch of no JSON":   {func(r *vmbackup.RestoreRequest) { r.Patch = []byte(`- op: add`) }, "not a JSON patch"},
		"patch operation":    {func(r *vmbackup.RestoreRequest) { r.Patch = []byte(`[{"op":"merge","path":"/a"}]`) }, `operation 1 of the patch: "merge"`},
		"patch path":         {func(r *vmbackup.RestoreRequest) { r.Patch = []byte(`[{"op":"add","path":"a"}]`) }, `path "a"`},
	} {
		r := vmbackup.RestoreRequest{Backup: vmbackup.Ref{Namespace: "demo", Name: "b1"}}.Default()
		tc.edit(&r)
		refused(t, name, r.Validate(), tc.says)
	}
}

func TestDeleteRequestValidation(t *testing.T) {
	good := vmbackup.DeleteRequest{Backup: vmbackup.Ref{Namespace: "demo", Name: "b1"}, From: vmbackup.SourceAll}
	refused(t, "as it is", good.Validate(), "")
	bad := good
	bad.Backup.Name = "b/1"
	refused(t, "name", bad.Validate(), "backup name")
	bad = good
	bad.Backup.Namespace = ""
	refused(t, "namespace", bad.Validate(), "backup namespace is missing")
	bad = good
	bad.From = ""
	refused(t, "source", bad.Validate(), "none of")
}

func TestListOptionsValidation(t *testing.T) {
	refused(t, "as it is", vmbackup.ListOptions{Source: vmbackup.SourceCluster}.Validate(), "")
	refused(t, "source", vmbackup.ListOptions{}.Validate(), "none of")
	refused(t, "limit", vmbackup.ListOptions{Source: vmbackup.SourceAll, Limit: -1}.Validate(), "limit -1")
}

func TestTimedName(t *testing.T) {
	if got := vmbackup.TimedName("web", morning); got != "web-20260301-060809" {
		t.Error(got)
	}
	// The longest machine name still gives a valid name, without a dash or dot before the time.
	for _, vm := range []string{strings.Repeat("a", 253), strings.Repeat("a", 163) + "-" + strings.Repeat("b", 80), strings.Repeat("a", 163) + "." + strings.Repeat("b", 80)} {
		r := vmbackup.BackupRequest{Namespace: "demo", VM: vm}.Default(morning)
		if err := r.Validate(); err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(r.Name, "-20260301-060809") || strings.Contains(r.Name, "--") || strings.Contains(r.Name, ".-") {
			t.Error(r.Name)
		}
	}
}

func TestParseRef(t *testing.T) {
	for text, want := range map[string]vmbackup.Ref{
		"b1":       {Namespace: "demo", Name: "b1"},
		"other/b1": {Namespace: "other", Name: "b1"},
	} {
		if got, err := vmbackup.ParseRef(text, "demo"); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/", "/b1", "other/", "a/b/c"} {
		_, err := vmbackup.ParseRef(text, "demo")
		refused(t, text, err, "neither NAME nor NAMESPACE/NAME")
	}
}
