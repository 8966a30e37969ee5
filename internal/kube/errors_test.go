// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestError(t *testing.T) {
	secrets := schema.GroupResource{Resource: "secrets"}
	machines := schema.GroupResource{Group: "subresources.kubevirt.io", Resource: "virtualmachineinstances"}
	terminating := apierrors.NewForbidden(secrets, "web", errors.New("unable to create new content in namespace demo because it is being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	tests := map[string]struct {
		err    error
		reason vmbackup.Reason
		hint   string
	}{
		"missing":   {apierrors.NewNotFound(secrets, "web"), vmbackup.ReasonNotFound, ""},
		"namespace": {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "demo"), vmbackup.ReasonNotFound, "kubectl create namespace demo"},
		"not served": {
			&apierrors.StatusError{ErrStatus: metav1.Status{Code: 404, Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource"}},
			vmbackup.ReasonEngineUnavailable, "does not serve this API",
		},
		"no match": {&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "longhorn.io", Kind: "Backup"}}, vmbackup.ReasonEngineUnavailable, "does not serve this API"},
		"exists":   {apierrors.NewAlreadyExists(secrets, "web"), vmbackup.ReasonAlreadyExists, ""},
		"conflict": {apierrors.NewConflict(secrets, "web", errors.New("the object has been modified")), vmbackup.ReasonConflict, "same command again"},
		"namespaced right": {
			forbidden("list"), vmbackup.ReasonForbidden,
			"ask for the right to list secrets in namespace demo; check with: kubectl auth can-i list secrets -n demo",
		},
		"subresource right": {
			apierrors.NewForbidden(machines, "web", errors.New(`User "ann" cannot update resource "virtualmachineinstances/freeze" in API group "subresources.kubevirt.io" in the namespace "demo"`)),
			vmbackup.ReasonForbidden, "kubectl auth can-i update virtualmachineinstances.subresources.kubevirt.io/freeze -n demo",
		},
		"cluster right": {
			apierrors.NewForbidden(schema.GroupResource{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotcontents"}, "",
				errors.New(`User "ann" cannot create resource "volumesnapshotcontents" in API group "snapshot.storage.k8s.io" at the cluster scope`)),
			vmbackup.ReasonForbidden, "create volumesnapshotcontents.snapshot.storage.k8s.io in the whole cluster",
		},
		"policy": {apierrors.NewForbidden(secrets, "web", errors.New("denied by policy no-secrets")), vmbackup.ReasonForbidden, "names the policy"},
		"quota": {
			apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, "web",
				errors.New("exceeded quota: storage, requested: requests.storage=10Gi, used: requests.storage=5Gi, limited: requests.storage=12Gi")),
			vmbackup.ReasonQuotaExceeded, "have ResourceQuota storage raised",
		},
		"terminating":  {terminating, vmbackup.ReasonConflict, "being deleted"},
		"credentials":  {apierrors.NewUnauthorized("token expired"), vmbackup.ReasonForbidden, "log in again"},
		"invalid":      {apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "web", nil), vmbackup.ReasonInvalidRequest, ""},
		"server slow":  {apierrors.NewServerTimeout(secrets, "list", 1), vmbackup.ReasonTimeout, "did not answer in time"},
		"starting":     {apierrors.NewServiceUnavailable("starting"), vmbackup.ReasonEngineUnavailable, "busy or starting"},
		"refused":      {&url.Error{Op: "Get", URL: "https://127.0.0.1:1/api", Err: refused()}, vmbackup.ReasonEngineUnavailable, "cannot be reached"},
		"cut off":      {fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), vmbackup.ReasonEngineUnavailable, "cannot be reached"},
		"deadline":     {fmt.Errorf("get: %w", context.DeadlineExceeded), vmbackup.ReasonTimeout, "--timeout"},
		"rate limiter": {errors.New("client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline"), vmbackup.ReasonTimeout, "--timeout"},
		"interrupt":    {fmt.Errorf("get: %w", context.Canceled), vmbackup.ReasonCanceled, ""},
		"webhook":      {apierrors.NewInternalError(errors.New("failed calling webhook")), vmbackup.ReasonInternal, ""},
		"unheard-of":   {errors.New("boom"), vmbackup.ReasonInternal, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := kube.Error(tt.err, "read", "Secret demo/web")
			var e *vmbackup.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T is no *vmbackup.Error", err)
			}
			if e.Reason != tt.reason {
				t.Errorf("reason %s, want %s", e.Reason, tt.reason)
			}
			if want := "cannot read Secret demo/web: " + tt.err.Error(); e.Message != want {
				t.Errorf("message %q, want %q", e.Message, want)
			}
			if !strings.Contains(e.Hint, tt.hint) || (tt.hint == "" && e.Hint != "") {
				t.Errorf("hint %q, want %q", e.Hint, tt.hint)
			}
			if !errors.Is(err, tt.err) {
				t.Error("the cause is lost")
			}
		})
	}
}

func TestErrorKeepsWhatIsKnown(t *testing.T) {
	if err := kube.Error(nil, "read", "Secret demo/web"); err != nil {
		t.Errorf("nil became %v", err)
	}
	known := vmbackup.Errorf(vmbackup.ReasonDataLost, "gone")
	if err := kube.Error(known, "read", "Secret demo/web"); !errors.Is(err, known) || err.Error() != "gone" {
		t.Errorf("a known error became %v", err)
	}
}
