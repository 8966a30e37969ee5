// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// withClaim puts a claim of the namespace shop with its volume into the cluster.
func withClaim(s *apiServer, name, driver string, volume longhornv1.Volume) {
	claim, pv := corev1.PersistentVolumeClaim{}, corev1.PersistentVolume{}
	claim.Spec.VolumeName = "pv-" + name
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "vol-" + name}
	s.put("/api/v1/namespaces/shop/persistentvolumeclaims/"+name, claim)
	s.put("/api/v1/persistentvolumes/pv-"+name, pv)
	s.put("/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/vol-"+name, volume)
}

func fromClaim(name, claim string) vmbackup.ImageRequest {
	return vmbackup.ImageRequest{Namespace: "shop", Name: name, Source: vmbackup.ImageSource{Type: vmbackup.ImageExport, Claim: claim}}
}

func copyOf(name, image string) vmbackup.ImageRequest {
	return vmbackup.ImageRequest{Namespace: "shop", Name: name, Source: vmbackup.ImageSource{Type: vmbackup.ImageClone, Image: image}}
}

// TestSources makes images of a volume and of an image, each twice, and looks at what
// Longhorn is asked for.
func TestSources(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	running := longhornv1.Volume{}
	running.Status.State = longhornv1.VolumeStateAttached
	withClaim(s, "web", Driver, running)
	original, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		req        vmbackup.ImageRequest
		parameters map[string]any
		warnings   int
	}{
		"export": {fromClaim("golden", "shop/web"), map[string]any{"volume-name": "vol-web", "export-type": "raw"}, 1},
		"clone":  {copyOf("copy", "ubuntu"), map[string]any{"backing-image": original.Status.BackingImage, "encryption": "ignore"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.changes())
			plan, err := i.PlanCreate(t.Context(), test.req)
			image, err := run(t, i, plan, err)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Warnings) != test.warnings || image.Spec.Source.Type != test.req.Source.Type {
				t.Errorf("%+v, warnings %q", image.Spec, plan.Warnings)
			}
			if got := s.has(pathBacking + image.Status.BackingImage).Object["spec"].(map[string]any)["sourceParameters"]; fmt.Sprint(got) != fmt.Sprint(test.parameters) {
				t.Errorf("parameters %v, want %v", got, test.parameters)
			}
			if _, err := create(t, i, test.req, vmbackup.RunOptions{}); err != nil || len(s.changes()) != before+2 {
				t.Errorf("a second run: %v, %q", err, s.changes()[before:])
			}
			other := request()
			other.Name = test.req.Name
			if _, err := i.PlanCreate(t.Context(), other); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
				t.Errorf("of another source: %v", err)
			}
		})
	}
}

func TestSourcesThatCannotBe(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	encrypted, faulted, v2 := longhornv1.Volume{}, longhornv1.Volume{}, longhornv1.Volume{}
	encrypted.Spec.Encrypted = true
	faulted.Status.Robustness = longhornv1.VolumeRobustnessFaulted
	v2.Spec.DataEngine = longhornv1.DataEngineTypeV2
	withClaim(s, "encrypted", Driver, encrypted)
	withClaim(s, "faulted", Driver, faulted)
	withClaim(s, "v2", Driver, v2)
	withClaim(s, "foreign", "other", longhornv1.Volume{})
	s.put("/api/v1/namespaces/shop/persistentvolumeclaims/waits", corev1.PersistentVolumeClaim{})
	coming := backing(longhornv1.BackingImageStateInProgress)
	coming.Annotations[AnnotationImage] = "shop/coming"
	s.put(pathBacking+"vmi-2", coming)
	secret := backing(longhornv1.BackingImageStateReady)
	secret.Annotations[AnnotationImage], secret.Spec.Secret, secret.Status.Checksum = "shop/secret", "key", strings.Repeat("a", 128)
	s.put(pathBacking+"vmi-3", secret)
	for what, test := range map[string]struct {
		req    vmbackup.ImageRequest
		reason vmbackup.Reason
		says   string
	}{
		"no claim":           {fromClaim("x", "shop/none"), vmbackup.ReasonNotFound, "no PersistentVolumeClaim shop/none"},
		"claim that waits":   {fromClaim("x", "shop/waits"), vmbackup.ReasonConflict, "no volume yet"},
		"encrypted volume":   {fromClaim("x", "shop/encrypted"), vmbackup.ReasonStorageUnsupported, "encrypted"},
		"faulted volume":     {fromClaim("x", "shop/faulted"), vmbackup.ReasonStorageUnsupported, "faulted"},
		"other data engine":  {fromClaim("x", "shop/v2"), vmbackup.ReasonStorageUnsupported, "data engine v2"},
		"not Longhorn's":     {fromClaim("x", "shop/foreign"), vmbackup.ReasonStorageUnsupported, "not Longhorn's"},
		"no image":           {copyOf("x", "none"), vmbackup.ReasonNotFound, "no image shop/none"},
		"itself":             {copyOf("coming", "coming"), vmbackup.ReasonInvalidRequest, "copy of itself"},
		"image that comes":   {copyOf("x", "coming"), vmbackup.ReasonImageMissing, "in progress"},
		"encrypted image":    {copyOf("x", "secret"), vmbackup.ReasonStorageUnsupported, "encrypted"},
		"no name of a claim": {fromClaim("x", "a/b/c"), vmbackup.ReasonInvalidRequest, "a/b/c"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := i.PlanCreate(t.Context(), test.req)
			e := vmbackup.AsError(err, vmbackup.ReasonInternal)
			if e == nil || e.Reason != test.reason || !e.Preflight || !strings.Contains(e.Message, test.says) {
				t.Errorf("%+v, want %s %q", e, test.reason, test.says)
			}
		})
	}
	_, h := harvesterCluster(t)
	if _, err := h.PlanCreate(t.Context(), copyOf("x", "y")); vmbackup.ReasonOf(err) != vmbackup.ReasonStorageUnsupported {
		t.Errorf("a copy by Harvester: %v", err)
	}
	if got := s.changes(); len(got) > 0 {
		t.Errorf("a plan has changed something: %q", got)
	}
}
