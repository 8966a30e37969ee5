// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// HarvesterImage is Harvester's description of a VirtualMachineImage on the
// backup target, from which it makes the image again on another cluster.
type HarvesterImage struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// URL names the backup of Longhorn's backing image: <target URL>?backingImage=<name>.
	URL         string `json:"url"`
	DisplayName string `json:"displayName,omitempty"`
	Description string `json:"description,omitempty"`
	// Checksum is the backing image's SHA-512 in hex.
	Checksum               string            `json:"checksum,omitempty"`
	StorageClassParameters map[string]string `json:"storageClassParameters,omitempty"`
}

// Ref is the image's namespace and name.
func (i *HarvesterImage) Ref() vmbackup.Ref {
	return vmbackup.Ref{Namespace: i.Namespace, Name: i.Name}
}

// BackingImage is the name of Longhorn's backing image in the URL.
func (i *HarvesterImage) BackingImage() (string, error) {
	u, err := url.Parse(i.URL)
	if err != nil {
		return "", fmt.Errorf("url is no URL")
	}
	name := u.Query().Get("backingImage")
	if !IsStoreName(name) {
		return "", fmt.Errorf("url names no backing image, but %q", name)
	}
	return name, nil
}

// EncodeHarvesterImage writes the file as Harvester writes it.
func EncodeHarvesterImage(image *HarvesterImage) ([]byte, error) {
	if err := image.check(); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "description of image %s: %w", image.Ref(), err)
	}
	content, err := json.Marshal(image)
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "description of image %s: %w", image.Ref(), err)
	}
	return content, nil
}

// DecodeHarvesterImage reads Harvester's description of an image. The key is
// where it lay; the content must be of the image that the key names. The error is
// DataDamaged and names the key and the field.
func DecodeHarvesterImage(key string, content []byte) (*HarvesterImage, error) {
	kind, ref, ok := ParseKey(key)
	if !ok || kind != FileHarvesterImage {
		return nil, damaged(key, "the name is not that of a Harvester image")
	}
	image := &HarvesterImage{}
	if err := decode(key, content, image); err != nil {
		return nil, err
	}
	if image.Namespace == "" {
		image.Namespace = defaultNamespace
	}
	if image.Ref() != ref {
		return nil, damaged(key, "fields namespace and name are of image %s, the file is of %s", image.Ref(), ref)
	}
	if err := image.check(); err != nil {
		return nil, damaged(key, "field %w", err)
	}
	return image, nil
}

func (i *HarvesterImage) check() error {
	switch {
	case !isNamespace(i.Namespace):
		return fmt.Errorf("namespace %q is no name of a namespace", i.Namespace)
	case !isName(i.Name):
		return fmt.Errorf("name %q is no name of Kubernetes", i.Name)
	}
	_, err := i.BackingImage()
	return err
}
