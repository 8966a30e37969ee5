// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// AnnotationImage of a backing image is namespace/name of the image that it holds,
// in Harvester's own form: on a cluster without Harvester it is all that says so.
const AnnotationImage = "harvesterhci.io/imageId"

// parameterImage of a StorageClass names the backing image of its volumes.
const parameterImage = longhornv1.BackingImageParameterName

// refOf is the image that a backing image holds: without the annotation itself, in no namespace.
func refOf(bi *longhornv1.BackingImage) vmbackup.Ref {
	namespace, name, found := strings.Cut(bi.Annotations[AnnotationImage], "/")
	if !found || namespace == "" || name == "" {
		return vmbackup.Ref{Name: bi.Name}
	}
	return vmbackup.Ref{Namespace: namespace, Name: name}
}

// views are all images, by namespace and name.
func (inv *inventory) views() []vmbackup.Image {
	var views []vmbackup.Image
	taken := map[string]bool{}
	for n := range inv.vmImages {
		vmi := &inv.vmImages[n]
		bi := inv.backingOf(vmi)
		if bi != nil {
			taken[bi.Name] = true
		}
		views = append(views, *inv.harvesterView(vmi, bi))
	}
	for n := range inv.images {
		if bi := &inv.images[n]; !taken[bi.Name] {
			views = append(views, *inv.backingView(bi))
		}
	}
	views = append(views, inv.abandoned()...)
	slices.SortStableFunc(views, func(a, b vmbackup.Image) int {
		return cmp.Or(cmp.Compare(a.Metadata.Namespace, b.Metadata.Namespace), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	return views
}

// abandoned are images of which only the StorageClass is there: an interrupted run
// has made, or left, no more.
func (inv *inventory) abandoned() (views []vmbackup.Image) {
	if !inv.sees(kindBackingImages) {
		return nil
	}
	for n := range inv.classes {
		c := &inv.classes[n]
		namespace, name, named := strings.Cut(c.Annotations[AnnotationImage], "/")
		if !named || c.Labels[labelManagedBy] != kube.FieldManager || inv.backing(c.Parameters[parameterImage]) != nil {
			continue
		}
		view := vmbackup.NewImage(vmbackup.Ref{Namespace: namespace, Name: name})
		view.Status.Engine, view.Status.Phase = vmbackup.EngineDirect, vmbackup.ImageMissing
		view.Status.BackingImage, view.Status.CreatedAt = c.Parameters[parameterImage], timeOf(c.CreationTimestamp.Time)
		view.Status.Error = vmbackup.Errorf(vmbackup.ReasonImageMissing, "StorageClass %s is there, and its backing image %s is not", c.Name, view.Status.BackingImage).
			WithHint("run the image create or image restore again that was interrupted, or remove the rest with: kubectl vmbackup image delete %s -n %s", name, namespace)
		inv.relate(view, c.Name)
		views = append(views, *view)
	}
	return views
}

// backingOf is the backing image of Harvester's image; nil when it is not seen.
func (inv *inventory) backingOf(vmi *harvester.VirtualMachineImage) *longhornv1.BackingImage {
	var named *longhornv1.BackingImage
	for n := range inv.images {
		bi := &inv.images[n]
		if bi.Annotations[AnnotationImage] == vmi.Namespace+"/"+vmi.Name {
			return bi
		}
		if bi.Name == "vmi-"+string(vmi.UID) {
			named = bi
		}
	}
	return named
}

// backingView is a backing image as an image.
func (inv *inventory) backingView(bi *longhornv1.BackingImage) *vmbackup.Image {
	view := vmbackup.NewImage(refOf(bi))
	view.Metadata.Labels = bi.Labels
	view.Status.Engine = vmbackup.EngineDirect
	view.Spec = vmbackup.ImageSpec{
		Source: sourceOf(bi), Checksum: bi.Spec.Checksum, Replicas: bi.Spec.MinNumberOfCopies,
		DisplayName: bi.Annotations[annotationDisplayName],
	}
	view.Status.CreatedAt = timeOf(bi.CreationTimestamp.Time)
	inv.observe(view, bi)
	inv.relate(view, "")
	return view
}

// annotationDisplayName of a backing image is its title, where Harvester keeps none.
const annotationDisplayName = vmbackup.Group + "/display-name"

// harvesterView is Harvester's image with its backing image, which may be nil.
func (inv *inventory) harvesterView(vmi *harvester.VirtualMachineImage, bi *longhornv1.BackingImage) *vmbackup.Image {
	view := vmbackup.NewImage(vmbackup.Ref{Namespace: vmi.Namespace, Name: vmi.Name})
	view.Metadata.Labels = vmi.Labels
	view.Status.Engine = vmbackup.EngineHarvester
	view.Spec = vmbackup.ImageSpec{DisplayName: vmi.Spec.DisplayName, Checksum: vmi.Spec.Checksum}
	view.Spec.Source = vmbackup.ImageSource{Type: vmbackup.ImageSourceType(vmi.Spec.SourceType)}
	switch view.Spec.Source.Type {
	case vmbackup.ImageDownload:
		view.Spec.Source.URL = redacted(vmi.Spec.URL)
	case vmbackup.ImageRestore:
		view.Spec.Source.Backup = redacted(vmi.Spec.URL)
	case vmbackup.ImageExport:
		view.Spec.Source.Claim = vmi.Spec.PVCNamespace + "/" + vmi.Spec.PVCName
	case vmbackup.ImageClone:
		if s := vmi.Spec.SecurityParameters; s != nil {
			view.Spec.Source.Image = s.SourceImageNamespace + "/" + s.SourceImageName
		}
	}
	view.Status.CreatedAt = timeOf(vmi.CreationTimestamp.Time)
	view.Status.SizeBytes, view.Status.VirtualSizeBytes = vmi.Status.Size, vmi.Status.VirtualSize
	if bi != nil {
		view.Spec.Replicas = bi.Spec.MinNumberOfCopies
		view.Spec.Source.Volume = bi.Spec.SourceParameters[longhornv1.DataSourceTypeExportFromVolumeParameterVolumeName]
		inv.observe(view, bi)
	} else {
		inv.observeAlone(view, vmi)
	}
	tellFailures(view, vmi)
	if vmi.DeletionTimestamp != nil {
		view.Status.Phase, view.Status.Ready = vmbackup.ImageDeleting, false
	}
	inv.relate(view, vmi.Status.StorageClassName)
	return view
}

// observeAlone says how an image stands by Harvester's word, without its backing image.
func (inv *inventory) observeAlone(view *vmbackup.Image, vmi *harvester.VirtualMachineImage) {
	s := &view.Status
	imported, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionImported)
	s.Progress = min(vmi.Status.Progress, 99)
	switch {
	case vmi.Spec.Backend != "" && vmi.Spec.Backend != "backingimage":
		// Another backend keeps the image in a volume of its own.
		s.Phase = vmbackup.ImageInProgress
		if imported.Status == "True" {
			s.Phase, s.Ready, s.Progress = vmbackup.ImageImported, true, 100
		}
	case !inv.sees(kindBackingImages):
		s.Phase = vmbackup.ImageUnknown
	case imported.Status == "True":
		s.Phase, s.Progress = vmbackup.ImageMissing, 0
		s.Error = vmbackup.Errorf(vmbackup.ReasonImageMissing, "Harvester has imported image %s, but its backing image does not exist", view.Ref()).
			WithHint("restore it from the backup target with: kubectl vmbackup image restore %s -n %s, or delete the image and import it again", vmi.Name, vmi.Namespace)
	default:
		s.Phase = vmbackup.ImageInProgress
	}
}

// tellFailures adds what Harvester says of an import that fails.
func tellFailures(view *vmbackup.Image, vmi *harvester.VirtualMachineImage) {
	imported, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionImported)
	exceeded, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionRetryLimitExceeded)
	initialized, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionInitialized)
	if view.Status.Ready {
		return
	}
	text := cmp.Or(exceeded.Message, imported.Message, initialized.Message)
	switch {
	case exceeded.Status == "True":
		view.Status.Phase = vmbackup.ImageFailed
		view.Status.Error = failure(view, cmp.Or(text, "it failed as often as it may be tried"))
	case view.Status.Phase == vmbackup.ImageFailed:
		// Harvester makes the backing image anew and tries again.
		view.Status.Phase = vmbackup.ImageInProgress
		view.Status.Warnings = append(view.Status.Warnings, fmt.Sprintf("an attempt failed and Harvester tries again: %s", kube.Brief(view.Status.Error.Message)))
		view.Status.Error = nil
	case vmi.Status.Failed > 0 && text != "":
		view.Status.Warnings = append(view.Status.Warnings, fmt.Sprintf("%d attempts failed, the last one with: %s", vmi.Status.Failed, kube.Brief(text)))
	}
}

// sourceOf is where a backing image came from.
func sourceOf(bi *longhornv1.BackingImage) vmbackup.ImageSource {
	p := bi.Spec.SourceParameters
	source := vmbackup.ImageSource{Type: vmbackup.ImageSourceType(bi.Spec.SourceType)}
	switch source.Type {
	case vmbackup.ImageDownload:
		source.URL = redacted(p[longhornv1.DataSourceTypeDownloadParameterURL])
	case vmbackup.ImageExport:
		source.Volume = p[longhornv1.DataSourceTypeExportFromVolumeParameterVolumeName]
		source.Claim = bi.Annotations[annotationClaim]
	case vmbackup.ImageClone:
		source.Image = p[longhornv1.DataSourceTypeCloneParameterBackingImage]
	case vmbackup.ImageRestore:
		source.Backup = redacted(p[longhornv1.DataSourceTypeRestoreParameterBackupURL])
	}
	return source
}

// annotationClaim of a backing image is namespace/name of the claim that it was exported from.
const annotationClaim = vmbackup.Group + "/claim"

// redacted is a URL without its password.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return raw
	}
	return u.Redacted()
}

// warnings say what could not be looked at.
func (inv *inventory) warnings() []string {
	if len(inv.unseen) == 0 {
		return nil
	}
	return []string{"you may not see " + strings.Join(inv.unseen, ", ") + ": what they would tell of the images is not known"}
}

// observe fills in how the backing image stands.
func (inv *inventory) observe(view *vmbackup.Image, bi *longhornv1.BackingImage) {
	s := &view.Status
	s.BackingImage = bi.Name
	s.SizeBytes, s.RealSizeBytes, s.VirtualSizeBytes = bi.Status.Size, bi.Status.RealSize, bi.Status.VirtualSize
	s.Checksum = bi.Status.Checksum
	s.Replicas = inv.replicas(bi)
	judge(view)
	if bi.DeletionTimestamp != nil {
		s.Phase, s.Ready, s.Error = vmbackup.ImageDeleting, false, nil
	}
}

// replicas are the copies on the disks, those that are asked for and those that are there.
func (inv *inventory) replicas(bi *longhornv1.BackingImage) []vmbackup.ImageReplica {
	disks := map[string]bool{}
	for disk := range bi.Spec.DiskFileSpecMap {
		disks[disk] = true
	}
	for disk := range bi.Status.DiskFileStatusMap {
		disks[disk] = true
	}
	var replicas []vmbackup.ImageReplica
	for _, disk := range slices.Sorted(maps.Keys(disks)) {
		r := vmbackup.ImageReplica{Disk: disk, State: vmbackup.StatePending}
		if s := bi.Status.DiskFileStatusMap[disk]; s != nil {
			r.State, r.Progress, r.Message = stateOf(s.State), s.Progress, kube.Brief(s.Message)
			if r.State == vmbackup.StateReady {
				r.Progress = 100
			}
		}
		r.Node, r.Path = inv.place(disk)
		replicas = append(replicas, r)
	}
	return replicas
}

// stateOf reads Longhorn's state of a file. A file that is ready for transfer is
// still on its way to the place where volumes find it.
func stateOf(s longhornv1.BackingImageState) vmbackup.State {
	switch s {
	case longhornv1.BackingImageStateReady:
		return vmbackup.StateReady
	case longhornv1.BackingImageStateStarting, longhornv1.BackingImageStateInProgress, longhornv1.BackingImageStateReadyForTransfer:
		return vmbackup.StateRunning
	case longhornv1.BackingImageStateFailed, longhornv1.BackingImageStateFailedAndCleanUp:
		return vmbackup.StateFailed
	case longhornv1.BackingImageStateUnknown:
		return vmbackup.StateUnknown
	}
	return vmbackup.StatePending
}

// place is where a disk is, empty when Longhorn's nodes may not be seen.
func (inv *inventory) place(uuid string) (node, path string) {
	for n := range inv.nodes {
		for _, disk := range inv.nodes[n].Status.DiskStatus {
			if disk != nil && disk.DiskUUID == uuid {
				return inv.nodes[n].Name, disk.DiskPath
			}
		}
	}
	return "", ""
}

// judge says how an image stands by its replicas.
func judge(view *vmbackup.Image) {
	s := &view.Status
	s.TotalReplicas = max(view.Spec.Replicas, len(s.Replicas))
	s.ReadyReplicas, s.Progress, s.Error = 0, 0, nil
	failed, unknown, why := 0, 0, ""
	for _, r := range s.Replicas {
		switch r.State {
		case vmbackup.StateReady:
			s.ReadyReplicas++
		case vmbackup.StateFailed:
			failed++
			why = cmp.Or(why, r.Message)
		case vmbackup.StateUnknown:
			unknown++
			why = cmp.Or(why, r.Message)
		}
		s.Progress = max(s.Progress, min(r.Progress, 99))
	}
	s.Ready = s.ReadyReplicas > 0
	switch {
	case s.Ready:
		s.Phase, s.Progress = vmbackup.ImageImported, 100
		if failed+unknown > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d of %d replicas cannot be used: %s", failed+unknown, len(s.Replicas), cmp.Or(why, "Longhorn gives no reason")))
		}
	case failed > 0 && failed == len(s.Replicas):
		s.Phase, s.Error = vmbackup.ImageFailed, failure(view, why)
	case unknown > 0 && failed+unknown == len(s.Replicas):
		s.Phase = vmbackup.ImageUnknown
		s.Warnings = append(s.Warnings, "Longhorn does not know how its replicas are; it may have lost the node: "+cmp.Or(why, "it gives no reason"))
	default:
		s.Phase = vmbackup.ImageInProgress
	}
}

// timeOf is nil for a time that is not known.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
