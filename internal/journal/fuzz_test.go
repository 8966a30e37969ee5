// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// FuzzSecret feeds Secrets as somebody may have edited them. One that is taken for
// an entry is the one that its name and namespace say.
func FuzzSecret(f *testing.F) {
	f.Add("vmbackup-backup-a", "backup", "a", string(SecretType), []byte("data"))
	f.Add("vmbackup-restore-a", "backup", "a", string(SecretType), []byte(nil))
	f.Add("vmbackup-backup-a", "backup", "../a", "Opaque", []byte("x"))
	f.Add("vmbackup--", "", "", string(SecretType), []byte("x"))
	f.Fuzz(func(t *testing.T, name, kind, full, secretType string, data []byte) {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, Labels: map[string]string{LabelKind: kind}, Annotations: map[string]string{annotationName: full}},
			Type:       corev1.SecretType(secretType), Data: map[string][]byte{secretKey: data},
		}
		e, err := entryOf(secret)
		if err != nil {
			if vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
				t.Fatal(err)
			}
			return
		}
		if e.Ref.Namespace != "demo" || SecretName(e.Kind, e.Ref) != name || secretType != string(SecretType) {
			t.Fatalf("%q is taken for %s %s", name, e.Kind, e.Ref)
		}
	})
}

// FuzzLabelValue: whatever stands for a value is a value of a label, and the same each time.
func FuzzLabelValue(f *testing.F) {
	for _, value := range []string{"web", "", "-x-", "a b", "ü", "\x00", "x=y,z"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := LabelValue(value)
		if len(validation.IsValidLabelValue(got)) > 0 || LabelValue(value) != got || LabelValue(got) != got {
			t.Fatalf("%q becomes %q", value, got)
		}
		if name := SecretName(KindBackup, vmbackup.Ref{Name: value}); len(name) > validation.DNS1123SubdomainMaxLength {
			t.Fatalf("%q", name)
		}
	})
}
