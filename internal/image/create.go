// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// creation is what a plan has decided, and what its run works with.
type creation struct {
	req vmbackup.ImageRequest
	// byHarvester leaves the work to Harvester's controllers.
	byHarvester bool
	// there is the image as the plan found it; nil for none.
	there *vmbackup.Image
	// again is true for an image whose earlier import has failed: it is made anew.
	again bool
	// backing and class are the names of the backing image and the StorageClass; empty
	// where Harvester chooses them.
	backing, class string
	// classThere is true when the StorageClass exists already.
	classThere bool
	parameters map[string]string
	binding    *storagev1.VolumeBindingMode
	copies     int
	// restored is the backup that the image is made of; nil for one that is imported.
	restored *onTarget
	target   string
	warnings []string
}

// PlanCreate implements vmbackup.Images.
func (i *Images) PlanCreate(ctx context.Context, req vmbackup.ImageRequest) (*vmbackup.ImagePlan, error) {
	req = req.Default()
	if err := req.Validate(); err != nil {
		return preflight(nil, err)
	}
	return preflight(i.planMaking(ctx, &creation{req: req}))
}

// planMaking plans an image that is imported or restored.
func (i *Images) planMaking(ctx context.Context, c *creation) (*vmbackup.ImagePlan, error) {
	var err error
	if c.byHarvester, err = i.byHarvester(ctx); err != nil {
		return nil, err
	}
	if c.byHarvester && (c.req.Replicas > 0 || c.req.StorageClass != "") {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "Harvester chooses the replicas and the StorageClass of an image itself").
			WithHint("leave --replicas and --storage-class out; Harvester takes the replicas from the default StorageClass")
	}
	inv, err := i.look(ctx)
	if err != nil {
		return nil, err
	}
	if err := i.namespaceExists(ctx, c.req.Namespace); err != nil {
		return nil, err
	}
	if err := i.resolve(ctx, c, inv); err != nil {
		return nil, err
	}
	c.there = exactly(inv.views(), c.req.Ref())
	if c.there != nil && c.there.Status.Phase == vmbackup.ImageMissing && c.there.Status.Engine == vmbackup.EngineDirect {
		c.there = nil // an interrupted run has left the StorageClass, which says how to go on
	}
	if c.there != nil {
		if err := c.same(); err != nil {
			return nil, err
		}
	}
	if err := i.mayCreate(ctx, c); err != nil {
		return nil, err
	}
	switch {
	case c.byHarvester:
		err = c.spares(inv)
	case c.restored != nil:
		err = c.nameRestored(inv)
	default:
		err = c.name(inv)
	}
	if err != nil {
		return nil, err
	}
	if err := i.rehearse(ctx, c); err != nil {
		return nil, err
	}
	return c.plan(i), nil
}

// spares refuses to have Harvester restore an image under the name of a backing image
// that is there: it would delete that one first.
func (c *creation) spares(inv *inventory) error {
	if c.restored == nil || c.there != nil {
		return nil
	}
	if taken := inv.backing(c.restored.backing); taken != nil {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "backing image %s exists already, as image %s, and Harvester would replace it", taken.Name, refOf(taken)).
			WithHint("use that image, or restore beside it with --engine %s", vmbackup.EngineDirect)
	}
	return nil
}

func (c *creation) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// exactly looks an image up by its own name alone.
func exactly(views []vmbackup.Image, ref vmbackup.Ref) *vmbackup.Image {
	if at := slices.IndexFunc(views, func(v vmbackup.Image) bool { return v.Ref() == ref }); at >= 0 {
		return &views[at]
	}
	return nil
}

// namespaceExists refuses a namespace that is not there. A user who may not look at
// namespaces is believed.
func (i *Images) namespaceExists(ctx context.Context, name string) error {
	_, err := i.clients.Core.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil || apierrors.IsForbidden(err) {
		return nil
	}
	if apierrors.IsNotFound(err) {
		return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no namespace %s, in which the image would be", name).
			WithHint("create it first: kubectl create namespace %s", name)
	}
	return kube.Error(err, "read", "namespace "+name)
}

// same refuses an image that is there with another source: what rests on it must not
// find other content below its blocks.
func (c *creation) same() error {
	there, want := c.there, c.req
	differs := func(what, is, wanted string) error {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "image %s exists with another %s: %s, not %s", want.Ref(), what, is, wanted).
			WithHint("look at it with: kubectl vmbackup image describe %s -n %s, and use another name", want.Name, want.Namespace)
	}
	if c.byHarvester != (there.Status.Engine == vmbackup.EngineHarvester) {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "image %s exists and is kept by %s", want.Ref(), there.Status.Engine).
			WithHint("use another name, or --engine %s", there.Status.Engine)
	}
	switch {
	case (c.restored != nil || want.Source.Type == vmbackup.ImageUpload) && there.Status.Ready && want.Checksum != "" && there.Status.Checksum == want.Checksum:
		return nil // wherever it came from, it is this content
	case there.Status.Phase == vmbackup.ImageDeleting:
		return vmbackup.Errorf(vmbackup.ReasonConflict, "image %s is being deleted", want.Ref()).WithHint("wait until it is gone and run the same command again")
	}
	if what, is, wanted := c.sourceDiffers(there.Spec.Source); what != "" {
		return differs(what, is, wanted)
	}
	switch {
	case want.Checksum != "" && there.Spec.Checksum != want.Checksum && there.Status.Checksum != want.Checksum:
		is := there.Status.Checksum
		if is == "" {
			is = "one that is not known yet"
		}
		return differs("checksum", is, want.Checksum)
	case want.StorageClass != "" && there.Status.StorageClass != "" && there.Status.StorageClass != want.StorageClass:
		return differs("StorageClass", there.Status.StorageClass, want.StorageClass)
	case there.Status.Phase == vmbackup.ImageMissing:
		return there.Status.Error
	}
	c.again = there.Status.Phase == vmbackup.ImageFailed
	if c.again && !there.Status.Users.None() {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "image %s has failed, and is in use, so that it cannot be made anew: %s", want.Ref(), users(&there.Status.Users)).
			WithHint("look at it with: kubectl vmbackup image describe %s -n %s", want.Name, want.Namespace)
	}
	return nil
}

// mayCreate asks for the rights to all that the run does.
func (i *Images) mayCreate(ctx context.Context, c *creation) error {
	wanted := []kube.Right{
		{Verb: "create", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace},
		{Verb: "watch", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace},
		{Verb: "create", Group: "storage.k8s.io", Resource: "storageclasses"},
	}
	if c.again {
		wanted = append(wanted, kube.Right{Verb: "delete", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace})
	}
	if c.byHarvester {
		wanted = []kube.Right{
			{Verb: "create", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: c.req.Namespace},
			{Verb: "watch", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: c.req.Namespace},
		}
		if c.again {
			wanted = append(wanted, kube.Right{Verb: "delete", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: c.req.Namespace})
		}
	}
	if c.there != nil && !c.again {
		wanted = nil // at most it is waited for
	}
	if c.req.Source.Type == vmbackup.ImageUpload && (c.there == nil || !c.there.Status.Ready) {
		// One that was cut off is made anew.
		wanted = append(wanted, backend().Right(), kube.Right{Verb: "watch", Group: "longhorn.io", Resource: "backingimagedatasources", Namespace: kube.LonghornNamespace})
		if c.byHarvester {
			wanted = append(wanted, kube.Right{Verb: "delete", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: c.req.Namespace})
		} else {
			wanted = append(wanted, kube.Right{Verb: "delete", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace})
		}
	}
	missing, err := i.clients.MissingRights(ctx, c.req.Namespace, wanted)
	if err != nil {
		return err
	}
	return kube.ForbiddenWithout(missing, c.req.Namespace)
}

// name finds or chooses the names of the backing image and of the StorageClass. The
// class has a name that everybody chooses alike and is made first: it records the
// backing image's name, so that two runs, or one after the other, make one image.
func (c *creation) name(inv *inventory) error {
	c.class = c.req.StorageClass
	if c.there != nil {
		c.backing = c.there.Status.BackingImage
		if c.class == "" {
			c.class = c.there.Status.StorageClass
		}
	}
	if c.class == "" {
		c.class = ClassName(c.req.Name)
	}
	at := slices.IndexFunc(inv.classes, func(s storagev1.StorageClass) bool { return s.Name == c.class })
	if at < 0 {
		if c.backing == "" {
			// A name of its own for each content: backups of images lie under it on a
			// target that clusters may share.
			c.backing = "vmi-" + string(uuid.NewUUID())
		}
		c.settle(inv.classes)
		return nil
	}
	taken := &inv.classes[at]
	named := taken.Parameters[parameterImage]
	if taken.Provisioner != Driver || named == "" || c.backing != "" && named != c.backing ||
		c.backing == "" && taken.Annotations[AnnotationImage] != c.req.Ref().String() {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "StorageClass %s exists and is not of image %s", c.class, c.req.Ref()).
			WithHint("give the image's StorageClass another name: --storage-class NAME")
	}
	c.backing, c.classThere = named, true
	c.settle(inv.classes)
	return nil
}

// rehearse lets the API server, and Longhorn's or Harvester's webhooks, look at what
// would be created.
func (i *Images) rehearse(ctx context.Context, c *creation) error {
	if c.there != nil {
		return nil
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager}
	if c.byHarvester {
		_, err := i.clients.Harvester.Images(c.req.Namespace).Create(ctx, c.vmImage(), dry)
		return kube.Error(err, "create", "VirtualMachineImage "+c.req.Ref().String())
	}
	if !c.classThere {
		if _, err := i.clients.Core.StorageV1().StorageClasses().Create(ctx, c.storageClass(), dry); err != nil {
			return kube.Error(err, "create", "StorageClass "+c.class)
		}
	}
	_, err := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace).Create(ctx, c.backingImage(), dry)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return kube.Error(err, "create", "Longhorn BackingImage "+c.backing)
}

func (c *creation) plan(i *Images) *vmbackup.ImagePlan {
	p := &vmbackup.ImagePlan{Request: c.req, State: c, Warnings: c.warnings}
	p.Image = c.there
	if p.Image == nil {
		p.Image = vmbackup.NewImage(c.req.Ref())
		p.Image.Spec = vmbackup.ImageSpec{DisplayName: c.req.DisplayName, Source: c.req.Source, Checksum: c.req.Checksum, Replicas: c.copies}
		p.Image.Spec.Source.URL = redacted(c.req.Source.URL)
		p.Image.Status = vmbackup.ImageStatus{Phase: vmbackup.ImageInProgress, BackingImage: c.backing, StorageClass: c.class, TotalReplicas: c.copies}
	}
	action := func(there bool) vmbackup.Action {
		if there {
			return vmbackup.ActionUse
		}
		return vmbackup.ActionCreate
	}
	note := ""
	if c.again {
		note = "its import has failed; made anew"
	}
	there := c.there != nil && !c.again
	if c.byHarvester {
		p.Objects = []vmbackup.PlannedObject{{
			Action: action(there), APIVersion: harvester.GroupVersion().String(), Kind: "VirtualMachineImage",
			Namespace: c.req.Namespace, Name: c.req.Name, Note: note,
		}}
	} else {
		p.Objects = []vmbackup.PlannedObject{
			{Action: action(c.classThere), APIVersion: "storage.k8s.io/v1", Kind: "StorageClass", Name: c.class},
			{Action: action(there), APIVersion: "longhorn.io/v1beta2", Kind: "BackingImage", Namespace: kube.LonghornNamespace, Name: c.backing, Note: note},
		}
	}
	p.Steps = flow.Statuses(c.steps(i, nil))
	return p
}

// steps implements operation.
func (c *creation) steps(i *Images, events *flow.Events) []flow.Step {
	var steps []flow.Step
	step := func(id, title string, ensure func(context.Context) error) {
		steps = append(steps, flow.Step{ID: id, Title: title, Ensure: ensure})
	}
	if c.again {
		step("clear", "Remove what has failed", func(ctx context.Context) error { return i.clear(ctx, c) })
	}
	if c.byHarvester {
		step("image", "Ask Harvester for the image", func(ctx context.Context) error { return i.ensureVMImage(ctx, c) })
	} else {
		step("class", "Make the StorageClass", func(ctx context.Context) error { return i.ensureClass(ctx, c) })
		step("image", "Make the backing image", func(ctx context.Context) error { return i.ensureBacking(ctx, c) })
	}
	if c.req.Source.Type == vmbackup.ImageUpload {
		step(stepUpload, "Upload the content", func(ctx context.Context) error { return i.upload(ctx, c, events) })
	}
	title := "Import until a replica is ready"
	if c.restored != nil {
		title = "Restore until a replica is ready"
	}
	return append(steps, flow.Step{ID: "import", Title: title, Waits: true, Ensure: func(ctx context.Context) error {
		return i.follow(ctx, c, events)
	}})
}
