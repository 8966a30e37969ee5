// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"context"
	"time"
)

// KindImage is the kind of a printed Image.
const KindImage = "Image"

// ImagePhase is where an image stands.
type ImagePhase string

// The phases of an image.
const (
	ImageInProgress ImagePhase = "InProgress" // no replica is ready yet
	ImageImported   ImagePhase = "Imported"   // at least one replica is ready
	ImageFailed     ImagePhase = "Failed"     // no replica is ready and none is being made
	ImageMissing    ImagePhase = "Missing"    // what names the image is there, its backing image is not
	ImageDeleting   ImagePhase = "Deleting"
	ImageUnknown    ImagePhase = "Unknown" // could not be observed
)

// ImageSourceType says how the content of an image came into the cluster, in
// the words of Longhorn and Harvester.
type ImageSourceType string

// The sources of an image.
const (
	ImageDownload ImageSourceType = "download"
	ImageUpload   ImageSourceType = "upload"
	ImageExport   ImageSourceType = "export-from-volume"
	ImageClone    ImageSourceType = "clone"
	ImageRestore  ImageSourceType = "restore" // from its backup on the target
)

// Image is an image from which disks of machines are made: Longhorn's backing
// image with the StorageClass that makes volumes of it, and Harvester's
// VirtualMachineImage where there is one.
type Image struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Metadata has no namespace for a backing image that belongs to none.
	Metadata ObjectMeta  `json:"metadata"`
	Spec     ImageSpec   `json:"spec"`
	Status   ImageStatus `json:"status"`
}

// NewImage returns an empty image with its kind set.
func NewImage(ref Ref) *Image {
	return &Image{APIVersion: APIVersion, Kind: KindImage, Metadata: ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}}
}

// Ref is the image's namespace and name.
func (i *Image) Ref() Ref { return Ref{Namespace: i.Metadata.Namespace, Name: i.Metadata.Name} }

// ParseImageRef reads NAME or NAMESPACE/NAME and refuses what is no name of an image.
func ParseImageRef(s, namespace string) (Ref, error) {
	ref, err := ParseRef(s, namespace)
	if err != nil {
		return ref, err
	}
	if err := validName("namespace", ref.Namespace, 63); err != nil {
		return ref, err
	}
	return ref, validName("image name", ref.Name, 253)
}

// ImageSpec is what was asked for.
type ImageSpec struct {
	DisplayName string      `json:"displayName,omitempty"`
	Source      ImageSource `json:"source"`
	// Checksum is the SHA-512 in hex that the content must have; empty for any.
	Checksum string `json:"checksum,omitempty"`
	// Replicas is how many disks are to hold a copy.
	Replicas int `json:"replicas,omitempty"`
}

// ImageSource is where the content came from.
type ImageSource struct {
	Type ImageSourceType `json:"type"`
	// URL of a download, without a password.
	URL string `json:"url,omitempty"`
	// Claim is namespace/name of the exported volume's claim, Volume its name in Longhorn.
	Claim  string `json:"claim,omitempty"`
	Volume string `json:"volume,omitempty"`
	// Image is the backing image that was cloned.
	Image string `json:"image,omitempty"`
	// File is the name of the file that is uploaded. Neither Longhorn nor Harvester keeps it.
	File string `json:"file,omitempty"`
	// Backup is the URL of the image's backup that was restored.
	Backup string `json:"backup,omitempty"`
}

// ImageStatus is what was observed.
type ImageStatus struct {
	Phase ImagePhase `json:"phase"`
	Ready bool       `json:"ready"`
	// Progress is 0..100; 100 only of an image that was imported.
	Progress int `json:"progress"`
	// BackingImage is its name in Longhorn and on the backup target.
	BackingImage string `json:"backingImage,omitempty"`
	// StorageClass is the class whose volumes are made of the image.
	StorageClass  string         `json:"storageClass,omitempty"`
	ReadyReplicas int            `json:"readyReplicas"`
	TotalReplicas int            `json:"totalReplicas"`
	Replicas      []ImageReplica `json:"replicas,omitempty"`
	// SizeBytes is the size of the image's file, RealSizeBytes what it takes on
	// disk, and VirtualSizeBytes that of the disk in it; 0 until it is known.
	SizeBytes        int64       `json:"sizeBytes,omitempty"`
	RealSizeBytes    int64       `json:"realSizeBytes,omitempty"`
	VirtualSizeBytes int64       `json:"virtualSizeBytes,omitempty"`
	Checksum         string      `json:"checksum,omitempty"`
	Users            ImageUsers  `json:"users"`
	Backup           ImageBackup `json:"backup"`
	// Engine is harvester where Harvester's controllers keep the image.
	Engine    string     `json:"engine,omitempty"`
	CreatedAt *time.Time `json:"createdAt,omitempty"`
	// Objects is what would be created, changed and deleted: of a dry run only.
	Objects  []PlannedObject `json:"objects,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

// ImageReplica is an image's copy on one disk.
type ImageReplica struct {
	// Disk is its UUID in Longhorn; Node and Path say where it is, if they may be seen.
	Disk  string `json:"disk"`
	Node  string `json:"node,omitempty"`
	Path  string `json:"path,omitempty"`
	State State  `json:"state"`
	// Progress is 0..100.
	Progress int    `json:"progress"`
	Message  string `json:"message,omitempty"`
}

// ImageUsers is what rests on an image. Claims and machines are namespace/name.
type ImageUsers struct {
	Volumes  []string `json:"volumes,omitempty"`
	Claims   []string `json:"claims,omitempty"`
	Machines []string `json:"machines,omitempty"`
	// StorageClasses are those that name the image, beside its own.
	StorageClasses []string `json:"storageClasses,omitempty"`
	// Unseen are the kinds that could not be looked at: nothing is known of them.
	Unseen []string `json:"unseen,omitempty"`
}

// None reports whether nothing was seen that uses the image.
func (u *ImageUsers) None() bool {
	return len(u.Volumes)+len(u.Claims)+len(u.Machines)+len(u.StorageClasses) == 0
}

// ImageBackup is what Longhorn shows of an image's backup on a target.
type ImageBackup struct {
	// State is empty for an image without a backup, Unknown where that could not be looked at.
	State  State  `json:"state,omitempty"`
	Target string `json:"target,omitempty"`
	// Progress is 0..100.
	Progress    int        `json:"progress,omitempty"`
	SizeBytes   int64      `json:"sizeBytes,omitempty"`
	URL         string     `json:"url,omitempty"`
	Checksum    string     `json:"checksum,omitempty"`
	CompletedAt *time.Time `json:"completedAt,omitempty"`
	Message     string     `json:"message,omitempty"`
}

// Images keeps images. Every error carries a Reason; those of the Plan methods are
// preflight errors.
type Images interface {
	// List lists by namespace and name; namespace is empty for all. Backing images
	// that belong to no namespace are in every listing. Parts that could not be
	// looked at come back as warnings.
	List(ctx context.Context, namespace string) (images []Image, warnings []string, err error)
	// Get returns one image by its name, or by that of its backing image, with its
	// replicas' places; or NotFound.
	Get(ctx context.Context, ref Ref) (*Image, error)
	// PlanCreate checks the request and says what would be done. It changes nothing.
	// An image that is there, of the same source, is the plan's image.
	PlanCreate(ctx context.Context, req ImageRequest) (*ImagePlan, error)
	// PlanBackup checks what a backup of the image to a target needs.
	PlanBackup(ctx context.Context, ref Ref, target string) (*ImagePlan, error)
	// PlanRestore looks for the image on the target alone.
	PlanRestore(ctx context.Context, req ImageRestoreRequest) (*ImagePlan, error)
	// PlanDelete refuses an image that is in use.
	PlanDelete(ctx context.Context, ref Ref) (*ImagePlan, error)
	// Run takes a plan to its end, from wherever it stands: an image that is made,
	// until one replica is ready. The image is returned with the error too, as far as it came.
	Run(ctx context.Context, plan *ImagePlan, opts RunOptions) (*Image, error)
}
