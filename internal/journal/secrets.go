// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/pager"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// SecretType is the type of the journal's Secrets; it never changes, so that a
// Secret of another owner is told apart.
const SecretType corev1.SecretType = vmbackup.Group + "/operation"

const (
	// secretKey is the one key of a journal's Secret.
	secretKey = "entry"
	// annotationName is the operation's full name: the Secret's may be shortened.
	annotationName = vmbackup.Group + "/name"

	labelManagedBy = "app.kubernetes.io/managed-by"

	// pageSize is how many Secrets a listing asks for at once. A record has tens
	// of kilobytes, so that a page stays at a few megabytes.
	pageSize = 200
)

// Secrets is a Store of one Secret an operation, in the operation's namespace,
// called vmbackup-<kind>-<name>.
type Secrets struct {
	client corev1client.SecretsGetter
}

var _ Store = (*Secrets)(nil)

// NewSecrets returns the journal of a cluster.
func NewSecrets(client corev1client.SecretsGetter) *Secrets {
	return &Secrets{client: client}
}

// Create implements Store.
func (s *Secrets) Create(ctx context.Context, e Entry) (Entry, error) {
	if err := check(e); err != nil {
		return Entry{}, err
	}
	secret := secretOf(e)
	secret.ResourceVersion = ""
	created, err := s.client.Secrets(e.Ref.Namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: kube.FieldManager})
	switch {
	case apierrors.IsAlreadyExists(err):
		return Entry{}, errTaken(e.Kind, e.Ref)
	case err != nil:
		return Entry{}, kube.Error(err, "write", object(e.Kind, e.Ref))
	}
	return entryOf(created)
}

// Get implements Store.
func (s *Secrets) Get(ctx context.Context, kind Kind, ref vmbackup.Ref) (Entry, error) {
	secret, err := s.client.Secrets(ref.Namespace).Get(ctx, SecretName(kind, ref), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Entry{}, errMissing(kind, ref)
	case err != nil:
		return Entry{}, kube.Error(err, "read", object(kind, ref))
	}
	return entryOf(secret)
}

// Update implements Store.
func (s *Secrets) Update(ctx context.Context, e Entry) (Entry, error) {
	if err := check(e); err != nil {
		return Entry{}, err
	}
	if e.Version == "" {
		// The API server would take this as "whatever is there".
		return Entry{}, errStale(e.Kind, e.Ref)
	}
	updated, err := s.client.Secrets(e.Ref.Namespace).Update(ctx, secretOf(e), metav1.UpdateOptions{FieldManager: kube.FieldManager})
	switch {
	case apierrors.IsNotFound(err):
		return Entry{}, errMissing(e.Kind, e.Ref)
	case apierrors.IsConflict(err):
		return Entry{}, errStale(e.Kind, e.Ref)
	case err != nil:
		return Entry{}, kube.Error(err, "write", object(e.Kind, e.Ref))
	}
	return entryOf(updated)
}

// Delete implements Store. A Secret of that name which is not the journal's is
// left alone and told as a Conflict.
func (s *Secrets) Delete(ctx context.Context, kind Kind, ref vmbackup.Ref) error {
	secrets, name := s.client.Secrets(ref.Namespace), SecretName(kind, ref)
	secret, err := secrets.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return kube.Error(err, "read", object(kind, ref))
	}
	if _, err := entryOf(secret); err != nil {
		return err
	}
	err = secrets.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return errStale(kind, ref)
	}
	return kube.Error(err, "delete", object(kind, ref))
}

// List implements Store.
func (s *Secrets) List(ctx context.Context, opts ListOptions) ([]Entry, error) {
	selectors := opts.selectors()
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return s.client.Secrets(opts.Namespace).List(ctx, o)
	})
	pages.PageSize = pageSize
	list, _, err := pages.List(ctx, selectors)
	if err != nil {
		return nil, kube.Error(err, "list", opts.object())
	}
	secrets := []*corev1.Secret{}
	err = meta.EachListItem(list, func(o runtime.Object) error {
		secret, ok := o.(*corev1.Secret)
		if !ok {
			return fmt.Errorf("a %T among the Secrets", o)
		}
		secrets = append(secrets, secret)
		return nil
	})
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "journal: %w", err)
	}
	return entriesOf(secrets), nil
}

// WatchList implements Store.
func (s *Secrets) WatchList(ctx context.Context, opts ListOptions, changed func([]Entry) (bool, error)) error {
	lw := kube.Select(s.client.Secrets(opts.Namespace), opts.selectors())
	return kube.WatchAll(ctx, lw, opts.object(), func(secrets []*corev1.Secret) (bool, error) {
		return changed(entriesOf(secrets))
	})
}

// selectors select the journal's Secrets.
func (o ListOptions) selectors() metav1.ListOptions {
	want := labels.Set{labelManagedBy: kube.FieldManager}
	maps.Copy(want, o.wanted())
	return metav1.ListOptions{
		LabelSelector: want.String(),
		// Secrets of another type may carry our labels: somebody copied them.
		FieldSelector: "type=" + string(SecretType),
	}
}

// object names what is listed, for errors.
func (o ListOptions) object() string {
	if o.Namespace == "" {
		return "the journal in all namespaces"
	}
	return "the journal in namespace " + o.Namespace
}

// entriesOf are the entries of Secrets, in order; a Secret that is not the
// journal's is left out.
func entriesOf(secrets []*corev1.Secret) []Entry {
	entries := []Entry{}
	for _, secret := range secrets {
		if e, err := entryOf(secret); err == nil {
			entries = append(entries, e)
		}
	}
	order(entries)
	return entries
}

// Watch implements Store.
func (s *Secrets) Watch(ctx context.Context, kind Kind, ref vmbackup.Ref, changed func(Entry) (bool, error)) error {
	var uid types.UID
	var seen string
	lw := kube.One(s.client.Secrets(ref.Namespace), SecretName(kind, ref))
	return kube.WatchAll(ctx, lw, object(kind, ref), func(secrets []*corev1.Secret) (bool, error) {
		if len(secrets) == 0 || (uid != "" && secrets[0].UID != uid) {
			return false, errMissing(kind, ref)
		}
		e, err := entryOf(secrets[0])
		if err != nil {
			return false, err
		}
		uid = secrets[0].UID
		if e.Version == seen {
			return false, nil
		}
		seen = e.Version
		return changed(e)
	})
}

func secretOf(e Entry) *corev1.Secret {
	labels := labelsOf(e)
	labels[labelManagedBy] = kube.FieldManager
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       e.Ref.Namespace,
			Name:            SecretName(e.Kind, e.Ref),
			Labels:          labels,
			Annotations:     map[string]string{annotationName: e.Ref.Name},
			ResourceVersion: e.Version,
		},
		Type: SecretType,
		Data: map[string][]byte{secretKey: e.Data},
	}
}

var errForeign = errors.New("a Secret of that name belongs to somebody else")

func entryOf(secret *corev1.Secret) (Entry, error) {
	kind := Kind(secret.Labels[LabelKind])
	ref := vmbackup.Ref{Namespace: secret.Namespace, Name: secret.Annotations[annotationName]}
	if secret.Type != SecretType || SecretName(kind, ref) != secret.Name {
		return Entry{}, vmbackup.Errorf(vmbackup.ReasonConflict, "Secret %s/%s is no record of an operation: %w", secret.Namespace, secret.Name, errForeign).
			WithHint("it was not touched; rename or remove it, or choose another name for the operation")
	}
	labels := maps.Clone(secret.Labels)
	delete(labels, labelManagedBy)
	return Entry{
		Kind:    kind,
		Ref:     ref,
		Labels:  labels,
		Data:    secret.Data[secretKey],
		Version: secret.ResourceVersion,
	}, nil
}

func object(kind Kind, ref vmbackup.Ref) string {
	return fmt.Sprintf("record of %s %s", kind, ref)
}
