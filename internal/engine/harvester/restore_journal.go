// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// recordLimit is the most bytes of a record on a VirtualMachineRestore: all annotations
// of an object together may have 256 KiB.
const recordLimit = 200 << 10

// restoreJournal keeps the record of a restore on the VirtualMachineRestore that
// carries it out, so that there is one object to see, follow and go on from. What
// Harvester keeps no object of, and backups, stay in the journal beside it.
type restoreJournal struct {
	journal.Store
	clients *kube.Clients
	// spec is that of the object that Create makes.
	spec *hv.VirtualMachineRestoreSpec
}

// Create makes the VirtualMachineRestore with the entry on it: Harvester begins.
func (j *restoreJournal) Create(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if e.Kind != journal.KindRestore {
		return j.Store.Create(ctx, e)
	}
	if _, err := j.Store.Get(ctx, e.Kind, e.Ref); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		if err == nil {
			err = vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "a record of restore %s is in the cluster already", e.Ref)
		}
		return journal.Entry{}, err
	}
	if j.spec == nil {
		return journal.Entry{}, vmbackup.Errorf(vmbackup.ReasonInternal, "restore %s was not planned", e.Ref)
	}
	marks, data := marksOf(e)
	if len(data) > recordLimit {
		return journal.Entry{}, tooLarge(e.Ref, len(data))
	}
	object := newRestore(e.Ref, j.spec)
	object.Labels, object.Annotations = marks, map[string]string{hv.RecordAnnotation: data}
	created, err := j.clients.Harvester.Restores(e.Ref.Namespace).Create(ctx, object, metav1.CreateOptions{FieldManager: kube.FieldManager})
	switch {
	case apierrors.IsAlreadyExists(err):
		return journal.Entry{}, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a %s already", restoreName(e.Ref))
	case err != nil:
		return journal.Entry{}, denied(err, e.Ref, j.spec)
	}
	return entryOf(created)
}

func tooLarge(ref vmbackup.Ref, size int) error {
	return cannot(ref, fmt.Sprintf("the machine's description of %d bytes does not fit on Harvester's object", size))
}

func newRestore(ref vmbackup.Ref, spec *hv.VirtualMachineRestoreSpec) *hv.VirtualMachineRestore {
	return &hv.VirtualMachineRestore{
		TypeMeta:   metav1.TypeMeta{APIVersion: hv.GroupVersion().String(), Kind: hv.RestoreKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}, Spec: *spec,
	}
}

// Get reads the entry from the VirtualMachineRestore, or else from the journal.
func (j *restoreJournal) Get(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (journal.Entry, error) {
	if kind != journal.KindRestore {
		return j.Store.Get(ctx, kind, ref)
	}
	object, err := j.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return j.Store.Get(ctx, kind, ref)
	case err != nil:
		return journal.Entry{}, kube.Error(err, "read", restoreName(ref))
	}
	return entryOf(object)
}

// Update writes the entry, if it still has the version. Harvester writes to the
// object all the time, which is no other version of the entry.
func (j *restoreJournal) Update(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if e.Kind != journal.KindRestore {
		return j.Store.Update(ctx, e)
	}
	client := j.clients.Harvester.Restores(e.Ref.Namespace)
	marks, data := marksOf(e)
	if len(data) > recordLimit {
		return journal.Entry{}, tooLarge(e.Ref, len(data))
	}
	for {
		object, err := client.Get(ctx, e.Ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return j.Store.Update(ctx, e)
		case err != nil:
			return journal.Entry{}, kube.Error(err, "read", restoreName(e.Ref))
		}
		have, err := entryOf(object)
		if err != nil {
			return journal.Entry{}, err
		}
		if have.Version != e.Version {
			return journal.Entry{}, vmbackup.Errorf(vmbackup.ReasonConflict, "record of restore %s was changed by somebody else", e.Ref).
				WithHint("another process may be at work on it: follow it with: kubectl vmbackup watch restore/%s -n %s", e.Ref.Name, e.Ref.Namespace)
		}
		set := map[string]any{}
		for key := range have.Labels {
			set[key] = nil
		}
		for key, value := range marks {
			set[key] = value
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": object.UID, "resourceVersion": object.ResourceVersion, "labels": set,
			"annotations": map[string]string{hv.RecordAnnotation: data},
		}})
		if err != nil {
			return journal.Entry{}, err
		}
		updated, err := client.Patch(ctx, e.Ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
		if apierrors.IsConflict(err) {
			continue // Harvester was faster
		}
		if err != nil {
			return journal.Entry{}, kube.Error(err, "write the record to", restoreName(e.Ref))
		}
		return entryOf(updated)
	}
}

// List is that of the journal and of the records on Harvester's objects.
func (j *restoreJournal) List(ctx context.Context, opts journal.ListOptions) ([]journal.Entry, error) {
	entries, err := j.Store.List(ctx, opts)
	if err != nil || opts.Kind != journal.KindRestore {
		return entries, err
	}
	want := labels.Set{journal.LabelKind: string(journal.KindRestore)}
	for key, value := range opts.Labels {
		want[key] = journal.LabelValue(value)
	}
	list, err := j.clients.Harvester.Restores(opts.Namespace).List(ctx, metav1.ListOptions{LabelSelector: want.String()})
	if err != nil {
		return nil, kube.Error(err, "list", "VirtualMachineRestores of Harvester")
	}
	for i := range list.Items {
		if e, err := entryOf(&list.Items[i]); err == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// Watch follows the entry of a restore, from the object to the journal where the
// object goes.
func (j *restoreJournal) Watch(ctx context.Context, kind journal.Kind, ref vmbackup.Ref, changed func(journal.Entry) (bool, error)) error {
	if kind != journal.KindRestore {
		return j.Store.Watch(ctx, kind, ref, changed)
	}
	seen := ""
	one := kube.One(j.clients.Harvester.Restores(ref.Namespace), ref.Name)
	err := kube.WatchAll(ctx, one, restoreName(ref), func(objects []*hv.VirtualMachineRestore) (bool, error) {
		if len(objects) == 0 {
			return false, errGone
		}
		e, err := entryOf(objects[0])
		if err != nil || e.Version == seen {
			return false, err
		}
		seen = e.Version
		return changed(e)
	})
	if err == errGone { //nolint:errorlint // it is returned as it is
		return j.Store.Watch(ctx, kind, ref, changed)
	}
	return err
}

// errGone ends a watch of an object that is not there.
var errGone = vmbackup.Errorf(vmbackup.ReasonNotFound, "the object is gone")

// marksOf are the labels and the record that an object carries of an entry.
func marksOf(e journal.Entry) (marks map[string]string, data string) {
	marks = map[string]string{journal.LabelKind: string(e.Kind)}
	for key, value := range e.Labels {
		marks[key] = journal.LabelValue(value)
	}
	return marks, base64.StdEncoding.EncodeToString(e.Data)
}

// entryOf reads the entry from an object. One that somebody else has made has none.
func entryOf(object *hv.VirtualMachineRestore) (journal.Entry, error) {
	ref := vmbackup.Ref{Namespace: object.Namespace, Name: object.Name}
	text, found := object.Annotations[hv.RecordAnnotation]
	if !found {
		return journal.Entry{}, vmbackup.Errorf(vmbackup.ReasonConflict, "%s was not made by this tool; Harvester does everything of it by itself", restoreName(ref)).
			WithHint("follow it with: kubectl vmbackup watch restore/%s -n %s", ref.Name, ref.Namespace)
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return journal.Entry{}, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "annotation %s of %s cannot be read: %w", hv.RecordAnnotation, restoreName(ref), err)
	}
	e := journal.Entry{Kind: journal.KindRestore, Ref: ref, Labels: map[string]string{}, Data: data}
	for key, value := range object.Labels {
		if strings.HasPrefix(key, vmbackup.Group+"/") {
			e.Labels[key] = value
		}
	}
	e.Version = versionOf(e)
	return e, nil
}

// versionOf is a digest of what the tool has written: what others change of the
// object is no other version.
func versionOf(e journal.Entry) string {
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		fmt.Fprintf(sum, "%s=%s\n", key, e.Labels[key])
	}
	sum.Write(e.Data)
	return hex.EncodeToString(sum.Sum(nil))
}

func restoreName(ref vmbackup.Ref) string {
	return fmt.Sprintf("%s.%s %s", hv.RestoreResource, hv.Group, ref)
}

var _ journal.Store = (*restoreJournal)(nil)
