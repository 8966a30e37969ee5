// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"io"
	"net/url"
	"regexp"
	"strings"
)

// ImageRequest asks for an image.
type ImageRequest struct {
	Namespace   string      `json:"namespace"`
	Name        string      `json:"name"`
	DisplayName string      `json:"displayName,omitempty"`
	Source      ImageSource `json:"source"`
	// Content is what is uploaded: of the source type upload alone.
	Content ImageContent `json:"-"`
	// Checksum is the SHA-512 in hex that the content must have; empty for any. An upload
	// is not planned without: it tells whether an image is this one already.
	Checksum string `json:"checksum,omitempty"`
	// Replicas is how many disks are to hold a copy, and how many replicas volumes
	// of the image have; 0 for as many as the default StorageClass says.
	Replicas int `json:"replicas,omitempty"`
	// StorageClass is the name of the class to make; empty for the usual one.
	StorageClass string `json:"storageClass,omitempty"`
}

// ImageContent is the content of an image that is uploaded, raw or qcow2.
type ImageContent interface {
	// SizeBytes is its size, a multiple of 512.
	SizeBytes() int64
	// Open opens it at its beginning.
	Open() (io.ReadCloser, error)
}

// MaxImageReplicas is the most copies that Longhorn makes.
const MaxImageReplicas = 20

// Ref is the image's namespace and name.
func (r ImageRequest) Ref() Ref { return Ref{Namespace: r.Namespace, Name: r.Name} }

// checksum is a SHA-512 in hex, as Longhorn writes it.
var checksum = regexp.MustCompile(`^[0-9a-f]{128}$`)

// Default fills what the request leaves open.
func (r ImageRequest) Default() ImageRequest {
	r.Checksum = strings.ToLower(strings.TrimSpace(r.Checksum))
	if r.DisplayName == "" {
		r.DisplayName = r.Name
	}
	return r
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (r ImageRequest) Validate() error {
	if err := validName("image name", r.Name, MaxNameLength); err != nil {
		return err
	}
	if err := validName("namespace", r.Namespace, 63); err != nil {
		return err
	}
	if r.StorageClass != "" {
		if err := validName("StorageClass", r.StorageClass, 253); err != nil {
			return err
		}
	}
	if r.Checksum != "" && !checksum.MatchString(r.Checksum) {
		return invalid("checksum %q is no SHA-512: 128 hexadecimal digits", r.Checksum)
	}
	if r.Replicas < 0 || r.Replicas > MaxImageReplicas {
		return invalid("%d replicas are not between 1 and %d", r.Replicas, MaxImageReplicas)
	}
	if len(r.DisplayName) > 250 || strings.ContainsFunc(r.DisplayName, func(c rune) bool { return c < ' ' }) {
		return invalid("display name %q is too long, or not one line of text", r.DisplayName)
	}
	return r.Source.validate()
}

func (s ImageSource) validate() error {
	switch s.Type {
	case ImageDownload:
		u, err := url.Parse(s.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return invalid("%q is no URL of a web server, http://... or https://...", s.URL)
		}
		return nil
	case ImageExport:
		ref, err := ParseRef(s.Claim, "")
		if err != nil {
			return err
		}
		if err := validName("namespace", ref.Namespace, 63); err != nil {
			return err
		}
		return validName("claim", ref.Name, 253)
	case ImageClone:
		_, err := ParseImageRef(s.Image, "default")
		return err
	case ImageUpload:
		return nil
	}
	return invalid("source %q is not supported", s.Type)
}

// ImageRestoreRequest asks for an image from its backup on a target.
type ImageRestoreRequest struct {
	// Image is the image as it was backed up; its name may also be that of a backing image.
	Image Ref `json:"image"`
	// To is the image to make; without a name as it was.
	To Ref `json:"to"`
	// Target is the name of Longhorn's BackupTarget.
	Target string `json:"target"`
	// StorageClass is the name of the class to make; empty for the usual one.
	StorageClass string `json:"storageClass,omitempty"`
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (r ImageRestoreRequest) Validate() error {
	to := r.To
	if to.Name == "" {
		to = r.Image
	}
	for _, f := range []struct {
		what, name string
		limit      int
	}{
		{"image name", r.Image.Name, 253}, {"namespace", r.Image.Namespace, 63}, {"image name", to.Name, MaxNameLength}, {"namespace", to.Namespace, 63}, {"target", r.Target, 253},
	} {
		if err := validName(f.what, f.name, f.limit); err != nil {
			return err
		}
	}
	if r.StorageClass == "" {
		return nil
	}
	return validName("StorageClass", r.StorageClass, 253)
}

// ImagePlan is a checked request for an image and what it would do.
type ImagePlan struct {
	Request ImageRequest
	// Image is as it stands, or as it will be.
	Image    *Image
	Objects  []PlannedObject
	Steps    []StepStatus
	Warnings []string
	// State is the implementation's own knowledge, carried from plan to run.
	State any
}
