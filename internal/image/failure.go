// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// failure is the error of an import that has failed, with what to do about it.
func failure(view *vmbackup.Image, why string) *vmbackup.Error {
	why = strings.TrimSpace(why)
	reason, hint := remedy(view.Spec.Source.Type, why)
	return vmbackup.Errorf(reason, "image %s could not be imported: %s", view.Ref(), kube.Brief(cmp.Or(why, "Longhorn gives no reason"))).
		WithHint("%s", hint)
}

// remedy reads what Longhorn says of a failed import.
func remedy(source vmbackup.ImageSourceType, why string) (vmbackup.Reason, string) {
	const again = "; then run the same 'kubectl vmbackup image create' again, which makes the image anew"
	low := strings.ToLower(why)
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(low, w) {
				return true
			}
		}
		return false
	}
	switch {
	case says("checksum"):
		return vmbackup.ReasonSourceMismatch, "the content is not what the checksum says: compare it with the one that its publisher gives (SHA-512 of the file as it is downloaded, compressed or not)" + again
	case says("no space left", "enough space", "insufficient storage"):
		return vmbackup.ReasonQuotaExceeded, "make room on Longhorn's disks; kubectl get nodes.longhorn.io -n " + kube.LonghornNamespace + " -o yaml shows what each has left" + again
	case source == vmbackup.ImageDownload && says("404", "not found", "403", "401", "forbidden", "unauthorized", "bad status", "expected status code"):
		return vmbackup.ReasonNotFound, "the server does not give that file; open the URL from a machine in the cluster's network" + again
	case source == vmbackup.ImageDownload && says("dial tcp", "no such host", "timeout", "connection", "x509", "tls", "certificate"):
		return vmbackup.ReasonNotFound, "the server cannot be reached from Longhorn's nodes: look at the URL, the proxy settings and the certificate of the server" + again
	case source == vmbackup.ImageUpload:
		return vmbackup.ReasonInternal, "the upload did not come to its end" + again
	}
	return vmbackup.ReasonInternal, "see more with: kubectl vmbackup image describe NAME, and in the log of Longhorn's pods backing-image-ds-* and backing-image-manager-*" + again
}
