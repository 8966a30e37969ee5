// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"maps"
	"strconv"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

// labelManagedBy is Kubernetes' recommended label, set to kube.FieldManager.
const labelManagedBy = "app.kubernetes.io/managed-by"

// Parameters of a StorageClass of Longhorn's driver.
const (
	parameterReplicas  = "numberOfReplicas"
	parameterStale     = "staleReplicaTimeout"
	parameterMigrate   = "migratable"
	parameterChecksum  = longhornv1.BackingImageParameterChecksum
	annotationDefaultS = "storageclass.kubernetes.io/is-default-class"
)

// settle chooses the class's parameters and the number of copies.
func (c *creation) settle(classes []storagev1.StorageClass) {
	c.parameters, c.binding = baseOf(classes)
	if described := c.describedParameters(); described != nil {
		c.parameters = described
	}
	if c.req.Replicas > 0 {
		c.parameters[parameterReplicas] = strconv.Itoa(c.req.Replicas)
	}
	c.parameters[parameterImage] = c.backing
	if c.req.Checksum != "" && c.restored == nil {
		// The driver then refuses volumes on any other content under this name.
		c.parameters[parameterChecksum] = c.req.Checksum
	}
	// As Harvester does: an image has as many copies as its volumes have replicas.
	c.copies, _ = strconv.Atoi(c.parameters[parameterReplicas])
}

// baseOf are the parameters that volumes of an image share with those of the default
// StorageClass, else Harvester's own ones. The type of the image's source is none of
// them: the driver holds it against the backing image and, once that is restored from
// the target, would refuse every volume.
func baseOf(classes []storagev1.StorageClass) (map[string]string, *storagev1.VolumeBindingMode) {
	immediate := storagev1.VolumeBindingImmediate
	for n := range classes {
		s := &classes[n]
		if s.Annotations[annotationDefaultS] != "true" || s.Provisioner != Driver || s.Parameters[parameterImage] != "" {
			continue
		}
		p := map[string]string{}
		for key, value := range s.Parameters {
			switch {
			case strings.HasPrefix(key, "backingImage"), strings.HasPrefix(key, "csi.storage.k8s.io/"),
				key == "encrypted", key == "fromBackup", key == "dataEngine":
				// An image below is neither encrypted nor of another data engine than v1.
			default:
				p[key] = value
			}
		}
		if p[parameterReplicas] == "" {
			p[parameterReplicas] = "3"
		}
		if s.VolumeBindingMode != nil {
			return p, s.VolumeBindingMode
		}
		return p, &immediate
	}
	return map[string]string{parameterReplicas: "3", parameterStale: "30", parameterMigrate: "true"}, &immediate
}

func (c *creation) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{labelManagedBy: kube.FieldManager},
		Annotations: map[string]string{AnnotationImage: c.req.Ref().String()},
	}
}

// storageClass is the class whose volumes are made of the image.
func (c *creation) storageClass() *storagev1.StorageClass {
	reclaim, expand := corev1.PersistentVolumeReclaimDelete, true
	return &storagev1.StorageClass{
		ObjectMeta: c.meta(c.class), Provisioner: Driver, ReclaimPolicy: &reclaim,
		AllowVolumeExpansion: &expand, VolumeBindingMode: c.binding, Parameters: maps.Clone(c.parameters),
	}
}

// backingImage is Longhorn's object.
func (c *creation) backingImage() *longhornv1.BackingImage {
	bi := &longhornv1.BackingImage{ObjectMeta: c.meta(c.backing)}
	bi.Namespace = kube.LonghornNamespace
	if c.req.Name == "" {
		bi.Annotations = nil // nobody tells what it was
	} else if c.req.DisplayName != c.req.Name && c.req.DisplayName != "" {
		bi.Annotations[annotationDisplayName] = c.req.DisplayName
	}
	bi.Spec = longhornv1.BackingImageSpec{
		SourceType: longhornv1.BackingImageDataSourceType(c.req.Source.Type), Checksum: c.req.Checksum,
		MinNumberOfCopies: c.copies, DataEngine: longhornv1.DataEngineTypeV1,
		SourceParameters: c.sourceParameters(), Disks: map[string]string{}, DiskFileSpecMap: map[string]*longhornv1.BackingImageDiskFileSpec{},
		DiskSelector: list(c.parameters["diskSelector"]), NodeSelector: list(c.parameters["nodeSelector"]),
	}
	if c.req.Source.Claim != "" && bi.Annotations != nil {
		bi.Annotations[annotationClaim] = c.req.Source.Claim
	}
	return bi
}

// list reads a selector of a StorageClass, tags with commas between them.
func list(tags string) []string {
	if tags == "" {
		return []string{}
	}
	return strings.Split(tags, ",")
}

// vmImage is Harvester's object.
func (c *creation) vmImage() *harvester.VirtualMachineImage {
	vmi := &harvester.VirtualMachineImage{ObjectMeta: metav1.ObjectMeta{
		Name: c.req.Name, Namespace: c.req.Namespace, Labels: map[string]string{labelManagedBy: kube.FieldManager},
	}}
	vmi.Spec = harvester.VirtualMachineImageSpec{
		Backend: "backingimage", DisplayName: c.req.DisplayName, SourceType: string(c.req.Source.Type),
		Checksum: c.req.Checksum, URL: c.req.Source.URL,
	}
	if namespace, name, found := strings.Cut(c.req.Source.Claim, "/"); found {
		vmi.Spec.PVCNamespace, vmi.Spec.PVCName = namespace, name
	}
	if c.restored != nil {
		vmi.Spec.URL = c.req.Source.Backup
		if d := c.restored.description; d != nil {
			vmi.Spec.Description, vmi.Spec.StorageClassParameters = d.Description, d.StorageClassParameters
		}
	}
	return vmi
}
