// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
)

// apiServer answers with the objects of its paths, and refuses those that start with "!".
func apiServer(t *testing.T, objects map[string]string) (kubeconfig string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if selector := r.URL.Query().Get("labelSelector"); selector != "" {
			path += "?" + selector
		}
		body, ok := objects[path]
		w.Header().Set("Content-Type", "application/json")
		switch {
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"nothing at ` + path + `"}`
		case strings.HasPrefix(body, "!"):
			w.WriteHeader(http.StatusForbidden)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"` + body[1:] + `"}`
		}
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "config")
	content := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: shop}}]
current-context: x
`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// TestRealSession goes the whole way from a kubeconfig to an API server.
func TestRealSession(t *testing.T) {
	objects := map[string]string{
		"/version": `{"major":"1","minor":"36","gitVersion":"v1.36.1"}`,
		"/apis/kubevirt.io/v1/kubevirts": `{"kind":"KubeVirtList","apiVersion":"kubevirt.io/v1","items":[
			{"metadata":{"name":"kubevirt","namespace":"kubevirt"},"status":{"observedKubeVirtVersion":"v1.9.0"}}]}`,
		"/apis/longhorn.io/v1beta2/namespaces/longhorn-system/settings/current-longhorn-version": `{"kind":"Setting","apiVersion":"longhorn.io/v1beta2",
			"metadata":{"name":"current-longhorn-version"},"value":"v1.12.0"}`,
		"/apis/kubevirt.io/v1/namespaces/shop/virtualmachines": `{"kind":"VirtualMachineList","apiVersion":"kubevirt.io/v1","items":[
			{"metadata":{"name":"web"}},{"metadata":{"name":"db"}}]}`,
		"/apis/kubevirt.io/v1/namespaces/shop/virtualmachines?tier=none": `{"kind":"VirtualMachineList","apiVersion":"kubevirt.io/v1","items":[]}`,
		"/api/v1/namespaces": `{"kind":"NamespaceList","apiVersion":"v1","items":[{"metadata":{"name":"shop"}},{"metadata":{"name":"test"}}]}`,
		"/api/v1/namespaces/shop/secrets?app.kubernetes.io/managed-by=kubectl-vmbackup,vmbackup.io/kind=backup": `{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`,
	}
	run := func(t *testing.T, args ...string) ended {
		out, errOut := &buffer{}, &buffer{}
		r := newRig(t)
		g := r.globals(out, errOut)
		g.connect = g.newSession
		code := g.execute(t.Context(), append(args, "--kubeconfig", apiServer(t, objects)))
		return ended{code: code, out: out.String(), err: errOut.String()}
	}
	run(t, "version").contains(t, exitDone, "Server Version: v1.36.1\nKubeVirt Version: v1.9.0\nLonghorn Version: v1.12.0\n")
	run(t, "create", "-l", "tier=none").want(t, exitRefused, "", "error: there is no VirtualMachine in namespace shop with the labels tier=none\n")
	run(t, "list").want(t, exitDone, "", "No backups found in shop namespace.\n")
	out, errOut := &buffer{}, &buffer{}
	g := newRig(t).globals(out, errOut)
	g.connect = g.newSession
	if code := g.execute(t.Context(), []string{"--kubeconfig", apiServer(t, objects), "__complete", "create", ""}); code != exitDone || !strings.HasPrefix(out.String(), "web\ndb\n:4\n") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errOut.String())
	}
	out = &buffer{}
	g = newRig(t).globals(out, errOut)
	g.connect = g.newSession
	if code := g.execute(t.Context(), []string{"--kubeconfig", apiServer(t, objects), "__complete", "list", "-n", ""}); code != exitDone || !strings.HasPrefix(out.String(), "shop\ntest\n:4\n") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errOut.String())
	}

	const refusal = "virtualmachines.kubevirt.io is forbidden: User \\\"eve\\\" cannot list resource \\\"virtualmachines\\\" in API group \\\"kubevirt.io\\\" in the namespace \\\"shop\\\""
	objects["/apis/kubevirt.io/v1/namespaces/shop/virtualmachines"] = "!" + refusal
	run(t, "create", "--all").contains(t, exitFailed, "error: cannot list VirtualMachines in namespace shop: ",
		"hint: ask for the right to list virtualmachines.kubevirt.io in namespace shop; check with: kubectl auth can-i list virtualmachines.kubevirt.io -n shop\n")
	delete(objects, "/apis/kubevirt.io/v1/kubevirts")
	run(t, "version", "-o", "json").contains(t, exitDone, `"kubernetes": "v1.36.1"`, `"longhorn": "v1.12.0"`)
}

// TestFactsOfTheProcess shows what the program looks at when nothing is injected.
func TestFactsOfTheProcess(t *testing.T) {
	g := newGlobals(newRig(t).globals(&buffer{}, &buffer{}).streams, Build{})
	if g.facts(&buffer{}).TTY || g.answers(strings.NewReader("y\n")) {
		t.Error("a buffer is taken for a terminal")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if g.answers(f) || render.FactsOf(f).TTY {
		t.Error("a file is taken for a terminal")
	}
}

// TestWatchWithoutAServer shows that a watch does not wait for ever for a server that never was there.
func TestWatchWithoutAServer(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	for _, args := range []string{"list -w", "list restores -w", "watch web-1", "watch restore/web-9"} {
		out, errOut := &buffer{}, &buffer{}
		g := newRig(t).globals(out, errOut)
		g.connect = g.newSession
		code := g.execute(t.Context(), append(strings.Fields(args), "--server", server.URL))
		ended{code: code, out: out.String(), err: errOut.String()}.contains(t, exitFailed, "error: cannot ", "hint: the API server cannot be reached;")
	}
}
