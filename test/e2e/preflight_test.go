// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

var (
	quotas        = schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}
	accessReviews = schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"}
)

// versions are the resource versions of every object of every kind in namespaces, and
// what the whole cluster has of kinds that a restore could touch, as far as no other
// test has a part in it. Events are left out: they tell of others, and time removes them.
func (s *suite) versions(t *testing.T, inNamespaces ...string) map[string]string {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	served, err := client.ServerPreferredNamespacedResources()
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, resource := range []schema.GroupVersionResource{namespaces, contents} {
		for _, o := range s.list(t, resource, "", "") {
			of := o.GetName()
			if resource == contents {
				of = text(&o, "spec", "volumeSnapshotRef", "namespace")
			}
			for _, namespace := range inNamespaces {
				if strings.HasPrefix(of, namespace) {
					versions[resource.Resource+" "+o.GetName()] = string(o.GetUID())
				}
			}
		}
	}
	for _, o := range s.list(t, snapshotClasses, "", "") {
		// Others make the one for snapshots meanwhile.
		if text(&o, "parameters", "type") == "bak" {
			versions["class "+o.GetName()] = o.GetResourceVersion()
		}
	}
	kinds := 0
	for _, list := range served {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || r.Name == "events" || gv.Group == "subresources.kubevirt.io" {
				continue
			}
			kinds++
			for _, namespace := range inNamespaces {
				for _, o := range s.list(t, gv.WithResource(r.Name), namespace, "") {
					versions[gv.WithResource(r.Name).String()+" "+namespace+"/"+o.GetName()] = o.GetResourceVersion()
				}
			}
		}
	}
	if kinds < 30 {
		t.Fatalf("%d kinds were looked at", kinds)
	}
	return versions
}

// testPreflight asks for restores that do not fit where they are to go. Each is
// refused with what is wrong, and nothing at all has changed afterwards.
func (s *suite) testPreflight(t *testing.T) {
	m := machine{namespace: s.namespace(t, "preflight"), name: "app", disks: []string{"root"}, off: true}
	s.make(t, m)
	good := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "good")
	// The CSI controllers tell the end of the snapshot after the backup's own end.
	for _, v := range good.Status.Volumes {
		s.wait(t, snapshots, m.namespace, v.VolumeSnapshot, "ready to use", func(o *unstructured.Unstructured) bool {
			ready, _, err := unstructured.NestedBool(o.Object, "status", "readyToUse")
			return err == nil && ready
		})
	}
	s.secretDisk(t, m.namespace)
	tight, going := s.namespace(t, "tight"), s.terminating(t)
	s.create(t, quotas, map[string]any{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "small", "namespace": tight},
		"spec": map[string]any{"hard": map[string]any{"requests.storage": "16Mi", "count/virtualmachines.kubevirt.io": "0"}},
	})
	s.wait(t, quotas, tight, "small", "counted", func(o *unstructured.Unstructured) bool { return text(o, "status", "used", "requests.storage") != "" })
	class := func(suffix string, parameters map[string]any) string {
		name := m.namespace + "-" + suffix
		s.class(t, name, parameters)
		return "longhorn-1r=" + name
	}
	foreign := m.namespace + "-foreign"
	s.temporary(t, storageClasses, map[string]any{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": map[string]any{"name": foreign}, "provisioner": "other.csi.example",
	})
	patch := filepath.Join(t.TempDir(), "patch.json")
	if err := os.WriteFile(patch, []byte(`[{"op":"replace","path":"/metadata/name","value":"other"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	invalid := filepath.Join(t.TempDir(), "invalid.json")
	if err := os.WriteFile(invalid, []byte(`[{"op":"add","path":"/spec/template/spec/domain/cpu","value":{"model":"none","isolateEmulatorThread":true}}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.versions(t, m.namespace, tight)
	restore := []string{"restore", "good", "--to-name", "copy"}
	for name, test := range map[string]struct {
		words []string
		args  []string
		code  int // 4, or 2 where the request itself is wrong
	}{
		"quota":                    {[]string{"requests.storage (ResourceQuota small): needs 32Mi, used 0 of 16Mi", "count/virtualmachines.kubevirt.io"}, append(restore, "--to-namespace", tight), 4},
		"namespace going":          {[]string{"is being deleted"}, append(restore, "--to-namespace", going), 4},
		"namespace going, wanted":  {[]string{"is being deleted"}, append(restore, "--to-namespace", going, "--create-namespace"), 4},
		"namespace missing":        {[]string{"no namespace", "--create-namespace"}, append(restore, "--to-namespace", "nowhere"), 4},
		"network missing":          {[]string{"NetworkAttachmentDefinition lab/vlan1", "pod", "--map-network"}, append(restore, "--map-network", "pod=lab/vlan1"), 4},
		"network not its own":      {[]string{`"vlan9"`, "are: pod"}, append(restore, "--map-network", "vlan9=pod"), 2},
		"class missing":            {[]string{`StorageClass "gold"`, "longhorn-1r"}, append(restore, "--map-storage-class", "longhorn-1r=gold"), 4},
		"class not its own":        {[]string{`"silver" is mapped`, "are: longhorn-1r"}, append(restore, "--map-storage-class", "silver=longhorn-1r"), 2},
		"class of another driver":  {[]string{"other.csi.example"}, append(restore, "--map-storage-class", "longhorn-1r="+foreign), 4},
		"class of data engine v2":  {[]string{"data engine v2"}, append(restore, "--map-storage-class", class("v2", map[string]any{"dataEngine": "v2"})), 4},
		"class with encryption":    {[]string{"encrypted"}, append(restore, "--map-storage-class", class("secret", map[string]any{"encrypted": "true"})), 4},
		"class on an image":        {[]string{"backing image none"}, append(restore, "--map-storage-class", class("image", map[string]any{"backingImage": "none"})), 4},
		"class without room":       {[]string{"no room for volume root", "0 of 1 replicas"}, append(restore, "--map-storage-class", class("full", map[string]any{"diskSelector": "no-such-disk"})), 4},
		"patch of the name":        {[]string{`changes name from "copy" to "other"`}, append(restore, "--patch", patch), 2},
		"patch that is refused":    {[]string{"VirtualMachine", "copy"}, append(restore, "--patch", invalid), 2},
		"dry run of what is wrong": {[]string{"no namespace"}, append(restore, "--to-namespace", "nowhere", "--dry-run=server"), 4},
	} {
		args := append(slices.Clone(test.args), "-n", m.namespace)
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			got := s.run(t, args...)
			if got.code != test.code || got.stdout != "" {
				t.Errorf("want exit code %d and no output: %s", test.code, got)
			}
			for _, word := range test.words {
				if !strings.Contains(got.stderr, word) {
					t.Errorf("does not say %q: %s", word, got)
				}
			}
		})
	}
	t.Run("dry_run", func(t *testing.T) { s.shownWhole(t, m) })
	if err := compareWorlds(before, s.versions(t, m.namespace, tight)); err != nil {
		t.Errorf("what was refused or only shown has changed something:\n%v", err)
	}
	t.Run("rights", func(t *testing.T) { s.walkRights(t, m) })
}

// shownWhole compares what a dry run shows with what the restore makes, in both modes.
func (s *suite) shownWhole(t *testing.T, m machine) {
	lab := m.namespace + "-lab"
	args := []string{"restore", "good", "-n", m.namespace, "--to-namespace", lab, "--create-namespace", "--name", "trial"}
	for _, mode := range []string{"client", "server"} {
		shown := s.restore(t, 0, append(args, "--dry-run="+mode)...)
		kinds := map[string]int{}
		for _, o := range shown.Status.Objects {
			kinds[string(o.Action)+" "+o.Kind]++
		}
		for _, want := range []string{"create Namespace", "create Secret", "create VolumeSnapshotContent", "create VolumeSnapshot", "create PersistentVolumeClaim", "create VirtualMachine"} {
			if kinds[want] != 1 {
				t.Errorf("--dry-run=%s shows %d of %s: %+v", mode, kinds[want], want, shown.Status.Objects)
			}
		}
		table := s.want(t, 0, append(args, "--dry-run="+mode)...)
		for _, o := range shown.Status.Objects {
			if !strings.HasPrefix(o.Name, "vmbackup-") && !strings.Contains(table.stdout, o.Name) {
				t.Errorf("%s %s is not shown: %s", o.Kind, o.Name, table)
			}
		}
	}
}

// terminating makes a namespace that cannot go, and is let go at the end.
func (s *suite) terminating(t *testing.T) string {
	t.Helper()
	name := s.namespace(t, "going")
	s.create(t, configMaps, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "holds", "namespace": name, "finalizers": []any{"vmbackup.io/test"}},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_, err := s.in(configMaps, name).Patch(ctx, "holds", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	if err := s.in(namespaces, "").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.wait(t, namespaces, "", name, "going", phase("Terminating"))
	return name
}

// secretDisk makes a machine with an encrypted disk: its backup says so.
func (s *suite) secretDisk(t *testing.T, namespace string) {
	t.Helper()
	class := namespace + "-locked"
	parameters := map[string]any{"encrypted": "true"}
	for _, use := range []string{"provisioner", "node-publish", "node-stage"} {
		parameters["csi.storage.k8s.io/"+use+"-secret-name"] = "${pvc.name}-key"
		parameters["csi.storage.k8s.io/"+use+"-secret-namespace"] = "${pvc.namespace}"
	}
	s.class(t, class, parameters)
	s.create(t, secrets, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "secret-disk-key", "namespace": namespace},
		"stringData": map[string]any{"CRYPTO_KEY_VALUE": "a key for tests", "CRYPTO_KEY_PROVIDER": "secret"},
	})
	s.claimed(t, namespace, "secret", class, "")
	s.wait(t, claims, namespace, "secret-disk", "bound", phase("Bound"))
	// The sandbox has no block devices, so that nothing attaches this volume.
	b := s.backup(t, 0, "create", "secret", "-n", namespace, "--name", "secret", "--dry-run")
	if v := b.Status.Volumes[0]; v.Encrypted == nil || !*v.Encrypted {
		t.Errorf("the backup does not say that its volume is encrypted: %+v", v)
	}
}

// needed are the rights without which a restore is refused, as docs/rbac.yaml has
// them: the verb, and the resource with its group.
func needed() []string {
	return []string{
		"get namespaces", "get virtualmachines.kubevirt.io", "create virtualmachines.kubevirt.io", "patch virtualmachines.kubevirt.io", "list virtualmachines.kubevirt.io", "watch virtualmachines.kubevirt.io",
		"get secrets", "create secrets", "update secrets", "create persistentvolumeclaims", "list persistentvolumeclaims", "watch persistentvolumeclaims", "get persistentvolumes",
		"create volumesnapshots.snapshot.storage.k8s.io", "list volumesnapshots.snapshot.storage.k8s.io", "watch volumesnapshots.snapshot.storage.k8s.io", "delete volumesnapshots.snapshot.storage.k8s.io",
		"create volumesnapshotcontents.snapshot.storage.k8s.io", "list volumesnapshotcontents.snapshot.storage.k8s.io", "watch volumesnapshotcontents.snapshot.storage.k8s.io", "delete volumesnapshotcontents.snapshot.storage.k8s.io",
		"list volumesnapshotclasses.snapshot.storage.k8s.io", "list storageclasses.storage.k8s.io",
		"get backuptargets.longhorn.io", "list volumes.longhorn.io", "watch volumes.longhorn.io", "watch engines.longhorn.io", "list backups.longhorn.io", "watch backups.longhorn.io",
	}
}

// walkRights takes one right after the other away from a user who has all of
// docs/rbac.yaml: the restore is refused before anything is changed, and the right is
// named. What a restore can do without is no reason to refuse.
func (s *suite) walkRights(t *testing.T, m machine) {
	all := s.documentedRules(t)
	const optional = "list resourcequotas,list nodes.longhorn.io,list settings.longhorn.io"
	walk := append(needed(), strings.Split(optional, ",")...)
	users := make([]string, len(walk))
	for i, right := range walk {
		users[i] = fmt.Sprintf("%s-without-%d", m.namespace, i)
		verb, resource, _ := strings.Cut(right, " ")
		rules, taken := without(all, verb, resource)
		if !taken {
			t.Errorf("docs/rbac.yaml does not have the right to %s", right)
		}
		s.temporary(t, clusterRoles, map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": users[i]}, "rules": rules,
		})
		s.temporary(t, clusterBindings, map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": users[i]},
			"subjects": []any{map[string]any{"kind": "User", "name": users[i], "apiGroup": "rbac.authorization.k8s.io"}},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": users[i]},
		})
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, 2)
	for i, right := range walk {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s.awaitRights(t, users[i], m.namespace)
			got := s.run(t, "restore", "good", "-n", m.namespace, "--to-name", "copy", "--dry-run", "--as", users[i])
			verb, resource, _ := strings.Cut(right, " ")
			kind, _, _ := strings.Cut(resource, ".")
			switch {
			case strings.Contains(optional, right):
				if got.code != 0 {
					t.Errorf("without the right to %s: %s", right, got)
				}
			case got.code != 4 || !strings.Contains(got.stderr, kind) || !strings.Contains(got.stderr, verb):
				t.Errorf("without the right to %s, want exit code 4 and the right named: %s", right, got)
			}
		})
	}
	running.Wait()
}

// documentedRules are the rules of all roles of docs/rbac.yaml.
func (s *suite) documentedRules(t *testing.T) []any {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.repository, "docs", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []any
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		role := map[string]any{}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatalf("docs/rbac.yaml: %v", err)
		}
		rules, _ := role["rules"].([]any)
		all = append(all, rules...)
	}
	return all
}

// without are the rules without one verb on one resource.
func without(rules []any, verb, resource string) (rest []any, taken bool) {
	kind, group, _ := strings.Cut(resource, ".")
	for _, r := range rules {
		rule := r.(map[string]any)
		if !has(rule["apiGroups"], group) || !has(rule["resources"], kind) || !has(rule["verbs"], verb) {
			rest = append(rest, rule)
			continue
		}
		taken = true
		remain := func(field, word string) []any {
			return slices.DeleteFunc(slices.Clone(rule[field].([]any)), func(w any) bool { return w == word })
		}
		if others := remain("resources", kind); len(others) > 0 {
			rest = append(rest, map[string]any{"apiGroups": rule["apiGroups"], "resources": others, "verbs": rule["verbs"]})
		}
		if others := remain("verbs", verb); len(others) > 0 {
			rest = append(rest, map[string]any{"apiGroups": rule["apiGroups"], "resources": []any{kind}, "verbs": others})
		}
	}
	return rest, taken
}

func has(list any, word string) bool {
	items, _ := list.([]any)
	return slices.Contains(items, any(word))
}

// awaitRights waits until the API server knows a user's rights: it learns of roles by watch.
func (s *suite) awaitRights(t *testing.T, user, namespace string) {
	deadline := time.NewTimer(waitDeadline)
	defer deadline.Stop()
	for {
		review, err := s.client.Resource(accessReviews).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
			"spec": map[string]any{"user": user, "resourceAttributes": map[string]any{"verb": "get", "group": "cdi.kubevirt.io", "resource": "datavolumes", "namespace": namespace}},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		if allowed, _, _ := unstructured.NestedBool(review.Object, "status", "allowed"); allowed {
			return
		}
		select {
		case <-deadline.C:
			t.Errorf("user %s has no rights after %s", user, waitDeadline)
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}
