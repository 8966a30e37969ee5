// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Error maps an error of the Kubernetes API to a *vmbackup.Error that says what
// could not be done to which object: action is a verb ("create", "read"), object
// names kind, namespace and name ("Secret demo/web-1"). The cause stays wrapped.
// It returns nil for nil, and an error that carries a reason already as it is.
func Error(err error, action, object string) error {
	if err == nil {
		return nil
	}
	if known := (*vmbackup.Error)(nil); errors.As(err, &known) {
		return err
	}
	reason, hint := classify(err)
	e := vmbackup.Errorf(reason, "cannot %s %s: %w", action, object, err)
	if hint != "" {
		e = e.WithHint("%s", hint)
	}
	return e
}

// classify finds the reason of an API error and what can be done about it.
func classify(err error) (vmbackup.Reason, string) {
	switch {
	case errors.Is(err, context.Canceled):
		return vmbackup.ReasonCanceled, ""
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(err.Error(), "would exceed context deadline"):
		// The second is the client's rate limiter, which does not wrap the context's error.
		return vmbackup.ReasonTimeout, "run the same command again with a longer --timeout; finished steps are not repeated"
	case notServed(err):
		return vmbackup.ReasonEngineUnavailable, "the cluster does not serve this API; check that the component which brings it is installed"
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return vmbackup.ReasonConflict, "the namespace is being deleted; wait until it is gone, or use another one"
	case apierrors.IsNotFound(err):
		return vmbackup.ReasonNotFound, missingHint(err)
	case apierrors.IsAlreadyExists(err):
		return vmbackup.ReasonAlreadyExists, ""
	case apierrors.IsConflict(err):
		return vmbackup.ReasonConflict, "somebody else changed it in the meantime; run the same command again"
	case apierrors.IsForbidden(err):
		return forbidden(err)
	case apierrors.IsUnauthorized(err):
		return vmbackup.ReasonForbidden, "the cluster does not accept the credentials of this kubeconfig context; log in again"
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err),
		apierrors.IsMethodNotSupported(err), apierrors.IsNotAcceptable(err), apierrors.IsUnsupportedMediaType(err):
		return vmbackup.ReasonInvalidRequest, ""
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), utilnet.IsTimeout(err):
		return vmbackup.ReasonTimeout, "the API server did not answer in time; run the same command again"
	case unreachable(err):
		return vmbackup.ReasonEngineUnavailable, "the API server cannot be reached; check the kubeconfig context and the network, then run the same command again"
	case Away(err):
		return vmbackup.ReasonEngineUnavailable, "the API server is busy or starting; run the same command again"
	}
	return vmbackup.ReasonInternal, ""
}

// notServed reports whether the kind itself is missing, rather than one object of it.
func notServed(err error) bool {
	if meta.IsNoMatchError(err) {
		return true
	}
	status, ok := statusOf(err)
	if !ok || !apierrors.IsNotFound(err) {
		return false
	}
	// A path that no handler serves is answered without an object's name.
	return status.Details == nil || status.Details.Name == ""
}

func missingHint(err error) string {
	status, ok := statusOf(err)
	if ok && status.Details != nil && status.Details.Kind == "namespaces" {
		return fmt.Sprintf("create the namespace first: kubectl create namespace %s", status.Details.Name)
	}
	return ""
}

// The texts of the API server's authorizer and of its quota admission: neither
// puts verb, namespace or quota into the status' fields.
var (
	denied = regexp.MustCompile(`cannot (\S+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)")?`)
	quota  = regexp.MustCompile(`exceeded quota: ([^,]+),`)
)

// forbidden tells a missing right from a used-up quota and a refusal by admission.
func forbidden(err error) (vmbackup.Reason, string) {
	text := err.Error()
	if strings.Contains(text, "exceeded quota") {
		name := "the ResourceQuota"
		if m := quota.FindStringSubmatch(text); m != nil {
			name = "ResourceQuota " + m[1]
		}
		return vmbackup.ReasonQuotaExceeded, fmt.Sprintf("have %s raised, or free what it counts, and run the same command again", name)
	}
	m := denied.FindStringSubmatch(text)
	if m == nil {
		return vmbackup.ReasonForbidden, "the API server refused this; its message names the policy"
	}
	verb, resource, group, namespace := m[1], m[2], m[3], m[4]
	if group != "" {
		// resource may carry a subresource: virtualmachines/restart.
		kind, sub, _ := strings.Cut(resource, "/")
		resource = kind + "." + group
		if sub != "" {
			resource += "/" + sub
		}
	}
	where, flag := "in the whole cluster", ""
	if namespace != "" {
		where, flag = "in namespace "+namespace, " -n "+namespace
	}
	return vmbackup.ReasonForbidden, fmt.Sprintf("ask for the right to %s %s %s; check with: kubectl auth can-i %s %s%s",
		verb, resource, where, verb, resource, flag)
}

// unreachable reports whether no API server answered at all.
func unreachable(err error) bool {
	var (
		op  *net.OpError
		dns *net.DNSError
	)
	return errors.As(err, &op) || errors.As(err, &dns) || utilnet.IsConnectionRefused(err) ||
		utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || errors.Is(err, io.ErrUnexpectedEOF)
}

// permanent reports whether asking again cannot help: the request is refused
// for what it is, not for the state that the API server is in.
func permanent(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsMethodNotSupported(err) ||
		apierrors.IsNotAcceptable(err) || apierrors.IsUnsupportedMediaType(err) || meta.IsNoMatchError(err)
}

func statusOf(err error) (metav1.Status, bool) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return metav1.Status{}, false
	}
	return status.Status(), true
}
