// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// upload is the backup of an image to a target.
type upload struct {
	image  *vmbackup.Image
	target string
	// found is Longhorn's backup as the plan found it; nil for none.
	found *longhornv1.BackupBackingImage
	// again is true for one that has failed: it is made anew.
	again bool
}

// PlanBackup implements vmbackup.Images.
func (i *Images) PlanBackup(ctx context.Context, ref vmbackup.Ref, targetName string) (*vmbackup.ImagePlan, error) {
	return preflight(i.planBackup(ctx, ref, targetName))
}

func (i *Images) planBackup(ctx context.Context, ref vmbackup.Ref, targetName string) (*vmbackup.ImagePlan, error) {
	image, err := i.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !image.Status.Ready {
		return nil, vmbackup.Errorf(vmbackup.ReasonImageMissing, "image %s cannot be backed up: it is %s, and no replica of it is ready", image.Ref(), words(image.Status.Phase)).
			WithHint("see why with: kubectl vmbackup image describe %s", image.Status.BackingImage)
	}
	if image.Status.BackingImage == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "image %s has no backing image in Longhorn: its backend keeps it elsewhere, and Longhorn cannot back it up", image.Ref()).
			WithHint("only images of the backend backingimage can be backed up")
	}
	if _, err := i.open(ctx, targetName); err != nil {
		return nil, err
	}
	u := &upload{image: image, target: targetName}
	if u.found, err = i.backupOn(ctx, image.Status.BackingImage, targetName); err != nil {
		return nil, err
	}
	if err := u.fits(); err != nil {
		return nil, err
	}
	wanted := []kube.Right{{Verb: "watch", Group: "longhorn.io", Resource: "backupbackingimages", Namespace: kube.LonghornNamespace}}
	if u.found == nil || u.again {
		wanted = append(wanted, kube.Right{Verb: "create", Group: "longhorn.io", Resource: "backupbackingimages", Namespace: kube.LonghornNamespace})
	}
	if u.again {
		wanted = append(wanted, kube.Right{Verb: "delete", Group: "longhorn.io", Resource: "backupbackingimages", Namespace: kube.LonghornNamespace})
	}
	missing, err := i.clients.MissingRights(ctx, ref.Namespace, wanted)
	if err != nil {
		return nil, err
	}
	if err := kube.ForbiddenWithout(missing, ref.Namespace); err != nil {
		return nil, err
	}
	return u.plan(i), nil
}

// fits refuses a backup under the image's name that is of other content: whoever
// restores from it would get that one.
func (u *upload) fits() error {
	b := u.found
	if b == nil {
		return nil
	}
	if b.DeletionTimestamp != nil {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "the backup of image %s on target %s is being deleted", u.image.Ref(), u.target).
			WithHint("wait until it is gone and run the same command again")
	}
	u.again = b.Status.State == longhornv1.BackupStateError || b.Status.State == longhornv1.BackupStateUnknown
	have, want := b.Status.Checksum, u.image.Status.Checksum
	if b.Status.State == longhornv1.BackupStateCompleted && have != "" && want != "" && have != want {
		return vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "target %s holds a backup of backing image %s with other content (checksum %s, the image has %s)", u.target, u.image.Status.BackingImage, have, want).
			WithHint("the backup is of an image that had this name before, or of another cluster's; it is left alone, since volumes' backups may rest on it. Make a new image of the content under another name")
	}
	return nil
}

func (u *upload) plan(i *Images) *vmbackup.ImagePlan {
	p := &vmbackup.ImagePlan{Image: u.image, State: u}
	action, note := vmbackup.ActionCreate, ""
	switch {
	case u.again:
		note = "an earlier one has failed; made anew"
	case u.found != nil:
		action = vmbackup.ActionUse
	}
	p.Objects = []vmbackup.PlannedObject{{
		Action: action, APIVersion: "longhorn.io/v1beta2", Kind: "BackupBackingImage", Namespace: kube.LonghornNamespace,
		Name: u.name(), Note: note,
	}}
	if u.image.Metadata.Namespace == "" {
		p.Warnings = append(p.Warnings, "the backing image belongs to no namespace, so that no description of it is written; restore it by the name of the backing image")
	} else {
		p.Objects = append(p.Objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, Kind: vmbackup.KindFile, Name: keyOf(u.image), Note: "on target " + u.target})
	}
	p.Steps = flow.Statuses(u.steps(i, nil))
	return p
}

// name is that of Longhorn's object: always the same one, so that two runs make one.
// What Longhorn itself makes has names of chance.
func (u *upload) name() string {
	if u.found != nil && !u.again {
		return u.found.Name
	}
	return u.image.Status.BackingImage + "-" + u.target
}

// steps implements operation.
func (u *upload) steps(i *Images, events *flow.Events) []flow.Step {
	var steps []flow.Step
	if u.again {
		steps = append(steps, flow.Step{ID: "clear", Title: "Remove what has failed", Ensure: func(ctx context.Context) error { return i.clearBackup(ctx, u) }})
	}
	steps = append(steps,
		flow.Step{ID: "backup", Title: "Have Longhorn back the image up", Ensure: func(ctx context.Context) error {
			_, err := i.ensureBackup(ctx, u)
			return err
		}},
		flow.Step{ID: "upload", Title: "Upload the image", Waits: true, Ensure: func(ctx context.Context) error { return i.followUpload(ctx, u, events) }},
		flow.Step{ID: "verify", Title: "See the backup on the target", Ensure: func(ctx context.Context) error {
			store, err := i.open(ctx, u.target)
			if err != nil {
				return err
			}
			return target.See(ctx, store, target.BackingImageConfigKey(u.image.Status.BackingImage), "the backup of backing image "+u.image.Status.BackingImage)
		}},
	)
	if u.image.Metadata.Namespace != "" {
		steps = append(steps, flow.Step{ID: "metadata", Title: "Write the image's description", Ensure: func(ctx context.Context) error {
			return i.describe(ctx, u.image, u.target)
		}})
	}
	return steps
}

// backupOn is Longhorn's backup of a backing image on a target; nil for none. Of
// several, which Longhorn allows no one to make, one that is whole counts.
func (i *Images) backupOn(ctx context.Context, name, targetName string) (*longhornv1.BackupBackingImage, error) {
	list, err := i.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "Longhorn's backups of backing images")
	}
	return pick(pointers(list.Items), name, targetName), nil
}

func pointers(items []longhornv1.BackupBackingImage) []*longhornv1.BackupBackingImage {
	list := make([]*longhornv1.BackupBackingImage, len(items))
	for n := range items {
		list[n] = &items[n]
	}
	return list
}

func pick(list []*longhornv1.BackupBackingImage, name, targetName string) (best *longhornv1.BackupBackingImage) {
	for _, b := range list {
		if Of(b) != name || b.Spec.BackupTargetName != targetName {
			continue
		}
		if best == nil || b.Status.State == longhornv1.BackupStateCompleted {
			best = b
		}
	}
	return best
}

// clearBackup removes a backup that has failed, and with it what it left on the target.
func (i *Images) clearBackup(ctx context.Context, u *upload) error {
	now, err := i.backupOn(ctx, u.image.Status.BackingImage, u.target)
	if err != nil || now == nil || now.Status.State != longhornv1.BackupStateError && now.Status.State != longhornv1.BackupStateUnknown {
		return err
	}
	backups := i.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace)
	what := "Longhorn BackupBackingImage " + now.Name
	if err := remove(ctx, now.UID, backups.Delete, now.Name); err != nil {
		return kube.Error(err, "delete", what)
	}
	return kube.WaitGone[*longhornv1.BackupBackingImage](ctx, kube.One(backups, now.Name), "the end of "+what, now.UID)
}

// ensureBackup asks Longhorn for the backup, unless there is one, whoever asked for it.
func (i *Images) ensureBackup(ctx context.Context, u *upload) (*longhornv1.BackupBackingImage, error) {
	there, err := i.backupOn(ctx, u.image.Status.BackingImage, u.target)
	if err != nil || there != nil {
		return there, err
	}
	b := &longhornv1.BackupBackingImage{ObjectMeta: metav1.ObjectMeta{
		Name: u.image.Status.BackingImage + "-" + u.target, Namespace: kube.LonghornNamespace,
		// Longhorn's own webhook looks for the target in the label.
		Labels: map[string]string{"longhorn.io/backup-target": u.target, "longhorn.io/backing-image": u.image.Status.BackingImage, labelManagedBy: kube.FieldManager},
	}}
	b.Spec = longhornv1.BackupBackingImageSpec{UserCreated: true, BackingImage: u.image.Status.BackingImage, BackupTargetName: u.target, Labels: map[string]string{}}
	made, err := i.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace).Create(ctx, b, createOptions())
	if err == nil || apierrors.IsAlreadyExists(err) {
		return made, nil
	}
	// Longhorn makes one by itself with the first backup of a volume on the image.
	if there, lookErr := i.backupOn(ctx, u.image.Status.BackingImage, u.target); lookErr == nil && there != nil {
		return there, nil
	}
	return nil, kube.Error(err, "make", "Longhorn BackupBackingImage "+b.Name)
}

// followUpload waits until the backup of the image is complete.
func (i *Images) followUpload(ctx context.Context, u *upload, events *flow.Events) error {
	backups := i.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace)
	told := vmbackup.ImageBackup{}
	return kube.WatchAll(ctx, kube.Select(backups, metav1.ListOptions{}), "the backup of backing image "+u.image.Status.BackingImage, func(list []*longhornv1.BackupBackingImage) (bool, error) {
		b := pick(list, u.image.Status.BackingImage, u.target)
		if b == nil {
			// Longhorn drops its records of a target that looks empty for a moment.
			return false, nil
		}
		view := viewOfBackup(b)
		if view.Progress != told.Progress || view.State != told.State {
			told = view
			total := u.image.Status.SizeBytes
			events.Volume("upload", u.image.Status.BackingImage, view.State, view.Progress, total*int64(view.Progress)/100, total, view.Message)
		}
		switch {
		case view.State == vmbackup.StateFailed:
			return false, vmbackup.Errorf(vmbackup.ReasonBackupFailed, "image %s could not be backed up to target %s: %s", u.image.Ref(), u.target, kube.Brief(b.Status.Error)).
				WithHint("the image is untouched; mend the cause and run the same command again, which makes the backup anew")
		case view.State == vmbackup.StateReady && !b.Status.LastSyncedAt.IsZero():
			return true, nil
		}
		return false, nil
	})
}

// keyOf is where the image's description lies on a target.
func keyOf(image *vmbackup.Image) string { return metadataKey(image.Ref()) }

// describeFailed explains that the description is missing while the data is there.
func describeFailed(image *vmbackup.Image, err error) error {
	return fmt.Errorf("the backup of image %s is on the target, its description is not: %w", image.Ref(), err)
}
