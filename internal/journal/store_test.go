// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal/journaltest"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestMemory(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journaltest.Place {
		return journaltest.Place{Store: journal.NewMemory(), First: "demo", Other: "other"}
	})
}

func TestSecrets(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journaltest.Place {
		client, _ := newCluster()
		return journaltest.Place{Store: journal.NewSecrets(client.CoreV1()), First: "demo", Other: "other"}
	})
}

// TestSecretsOfRealServer runs the contract against the API server of the
// kubeconfig in VMBACKUP_TEST_KUBECONFIG, in namespaces of its own.
func TestSecretsOfRealServer(t *testing.T) {
	path := os.Getenv("VMBACKUP_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("VMBACKUP_TEST_KUBECONFIG names no kubeconfig")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	journaltest.Run(t, func(t *testing.T) journaltest.Place {
		return journaltest.Place{Store: journal.NewSecrets(client.CoreV1()), First: namespace(t, client), Other: namespace(t, client)}
	})
}

func namespace(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "journal-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

func TestSecretsListIsPaged(t *testing.T) {
	client, server := newCluster()
	store := journal.NewSecrets(client.CoreV1())
	const many = 1001
	for i := range many {
		if _, err := store.Create(t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "demo", Name: fmt.Sprintf("b%04d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := store.List(t.Context(), journal.ListOptions{Kind: journal.KindBackup})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != many || got[0].Ref.Name != "b0000" || got[many-1].Ref.Name != "b1000" {
		t.Errorf("%d entries, want %d in order", len(got), many)
	}
	if server.lists != 6 {
		t.Errorf("%d requests, want 6", server.lists)
	}
}

func TestSecretsWatchSurvivesClosedWatches(t *testing.T) {
	client, server := newCluster()
	store := journal.NewSecrets(client.CoreV1())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e, err := store.Create(ctx, journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "demo", Name: "nightly"}, Data: []byte("0")})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	err = store.Watch(ctx, e.Kind, e.Ref, func(got journal.Entry) (bool, error) {
		seen = append(seen, string(got.Data))
		if len(seen) == 4 {
			return true, nil
		}
		server.drop()
		got.Data = []byte(fmt.Sprint(len(seen)))
		_, err := store.Update(ctx, got)
		return false, err
	})
	if err != nil || strings.Join(seen, "") != "0123" {
		t.Errorf("saw %q, error %v", seen, err)
	}
}

func TestSecretsShape(t *testing.T) {
	client, _ := newCluster()
	store := journal.NewSecrets(client.CoreV1())
	if _, err := store.Create(t.Context(), journal.Entry{
		Kind: journal.KindRestore, Ref: vmbackup.Ref{Namespace: "demo", Name: "web.1"},
		Labels: map[string]string{journal.LabelVM: "web"}, Data: []byte("x"),
	}); err != nil {
		t.Fatal(err)
	}
	secret, err := client.CoreV1().Secrets("demo").Get(t.Context(), "vmbackup-restore-web.1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Type != "vmbackup.io/operation" || secret.Labels["app.kubernetes.io/managed-by"] != "kubectl-vmbackup" ||
		secret.Labels["vmbackup.io/kind"] != "restore" || secret.Labels["vmbackup.io/vm"] != "web" || len(secret.Data) != 1 {
		t.Errorf("secret %+v", secret.ObjectMeta)
	}
}

func TestForeignSecretIsLeftAlone(t *testing.T) {
	client, _ := newCluster()
	store := journal.NewSecrets(client.CoreV1())
	foreign := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "vmbackup-backup-nightly", Labels: map[string]string{
			"app.kubernetes.io/managed-by": "kubectl-vmbackup", journal.LabelKind: "backup",
		}},
		Data: map[string][]byte{"password": []byte("x")},
	}
	if _, err := client.CoreV1().Secrets("demo").Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ref := vmbackup.Ref{Namespace: "demo", Name: "nightly"}
	if _, err := store.Get(t.Context(), journal.KindBackup, ref); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
		t.Errorf("get: %v, want Conflict", err)
	}
	if err := store.Delete(t.Context(), journal.KindBackup, ref); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
		t.Errorf("delete: %v, want Conflict", err)
	}
	if all, err := store.List(t.Context(), journal.ListOptions{}); err != nil || len(all) != 0 {
		t.Errorf("list %v, error %v", all, err)
	}
	if _, err := client.CoreV1().Secrets("demo").Get(t.Context(), foreign.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the foreign Secret: %v", err)
	}
}

// Between the look and the deletion another entry may take the name.
func TestDeleteNamesTheUID(t *testing.T) {
	client, server := newCluster()
	store := journal.NewSecrets(client.CoreV1())
	e := journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "demo", Name: "nightly"}}
	if _, err := store.Create(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	client.PrependReactor("delete", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		server.mu.Lock()
		defer server.mu.Unlock()
		for _, secret := range server.items {
			secret.UID = "of-the-next"
		}
		return false, nil, nil
	})
	if err := store.Delete(t.Context(), e.Kind, e.Ref); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
		t.Errorf("delete: %v, want Conflict", err)
	}
	if _, err := store.Get(t.Context(), e.Kind, e.Ref); err != nil {
		t.Errorf("the other entry: %v", err)
	}
}

func TestForbidden(t *testing.T) {
	client, _ := newCluster()
	client.PrependReactor("*", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "",
			fmt.Errorf("User %q cannot %s resource %q in API group %q in the namespace %q", "ann", a.GetVerb(), "secrets", "", "demo"))
	})
	store := journal.NewSecrets(client.CoreV1())
	e := journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "demo", Name: "nightly"}, Version: "1"}
	_, create := store.Create(t.Context(), e)
	_, get := store.Get(t.Context(), e.Kind, e.Ref)
	_, update := store.Update(t.Context(), e)
	_, list := store.List(t.Context(), journal.ListOptions{Namespace: "demo"})
	for verb, err := range map[string]error{
		"create": create, "update": update, "get": get, "list": list,
		"delete": store.Delete(t.Context(), e.Kind, e.Ref),
		"watch":  store.Watch(t.Context(), e.Kind, e.Ref, func(journal.Entry) (bool, error) { return true, nil }),
	} {
		told := vmbackup.AsError(err, vmbackup.ReasonInternal)
		if told == nil || told.Reason != vmbackup.ReasonForbidden {
			t.Errorf("%s: %v, want Forbidden", verb, err)
			continue
		}
		if !strings.Contains(told.Hint, "secrets in namespace demo") {
			t.Errorf("%s: hint %q", verb, told.Hint)
		}
	}
}

func TestLabelValue(t *testing.T) {
	long := strings.Repeat("a", 64)
	if got := journal.LabelValue("web-1"); got != "web-1" {
		t.Errorf("a valid value became %q", got)
	}
	if a, b := journal.LabelValue(long), journal.LabelValue(long+"b"); a == b || len(a) > 63 || a != journal.LabelValue(long) {
		t.Errorf("hashes %q and %q", a, b)
	}
}
