// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findNamespace reads a namespace; nil is one that does not exist.
func (e *Engine) findNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	ns, err := e.clients.Core.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Error(err, "read", "Namespace "+name)
	}
	return ns, nil
}

// checkNamespace refuses a namespace that cannot take objects.
func (d *destination) checkNamespace(name string, create bool) error {
	switch {
	case d.namespace == nil && create:
		return nil
	case d.namespace == nil:
		return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no namespace %q to restore into", name).
			WithHint("have it made with --create-namespace, or make it with: kubectl create namespace %s", name)
	case d.namespace.DeletionTimestamp != nil:
		return terminating(name)
	}
	return nil
}

func terminating(name string) error {
	return vmbackup.Errorf(vmbackup.ReasonConflict, "namespace %q is being deleted, and takes nothing new", name).
		WithHint("restore into another one, or wait until it is gone: kubectl wait --for=delete namespace/%s", name)
}

// ensureNamespace makes the namespace of a restore that asked for it. It comes
// before the record, which lies in it.
func (e *Engine) ensureNamespace(ctx context.Context, name string) error {
	client := e.clients.Core.CoreV1().Namespaces()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{LabelManagedBy: kube.FieldManager}}}
	_, err := client.Create(ctx, ns, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if !apierrors.IsAlreadyExists(err) {
		return kube.Error(err, "create", "Namespace "+name)
	}
	// Somebody else was faster, or it is on its way out.
	have, err := client.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", "Namespace "+name)
	}
	if have.DeletionTimestamp != nil {
		return terminating(name)
	}
	return nil
}

// beginNamespace makes the namespace and then has the API server judge what the
// plan could not send there.
func (e *Engine) beginNamespace(ctx context.Context, record *restoreRecord) error {
	name := record.Restore.Spec.TargetNamespace
	if err := e.ensureNamespace(ctx, name); err != nil {
		return err
	}
	record.createNamespace = false
	if err := e.judgeParts(ctx, record); err != nil {
		known := vmbackup.AsError(err, vmbackup.ReasonInternal)
		return vmbackup.Errorf(known.Reason, "namespace %s was made, and then nothing in it: %w", name, err).WithHint("%s", known.Hint)
	}
	return nil
}
