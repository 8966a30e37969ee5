// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build sandbox

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

const (
	snapshotClass = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: test-bak}
driver: driver.longhorn.io
deletionPolicy: Retain
parameters: {type: bak}
`
	namespaceYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: %s}
`
	claimYAML = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: %s}
spec:
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: longhorn-1r
  resources: {requests: {storage: 64Mi}}
`
	snapshotYAML = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s, namespace: %s}
spec:
  volumeSnapshotClassName: test-bak
  source: {persistentVolumeClaimName: %s}
`
	// A restore knows nothing but the handle: the content is composed from it.
	restoreYAML = `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata: {name: %[1]s-%[2]s}
spec:
  driver: driver.longhorn.io
  deletionPolicy: Retain
  source: {snapshotHandle: %[3]q}
  volumeSnapshotClassName: test-bak
  volumeSnapshotRef: {name: %[2]s, namespace: %[1]s}
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  volumeSnapshotClassName: test-bak
  source: {volumeSnapshotContentName: %[1]s-%[2]s}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: longhorn-1r
  resources: {requests: {storage: 64Mi}}
  dataSource: {kind: VolumeSnapshot, apiGroup: snapshot.storage.k8s.io, name: %[2]s}
`
)

func resource(group, version, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: plural}
}

// wait waits for a state of an object under a deadline.
func (c *cluster) wait(gvr schema.GroupVersionResource, namespace, name string,
	reached func(*unstructured.Unstructured) (bool, string, error),
) *unstructured.Unstructured {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	object, err := watchfor.State(ctx, c.client, watchfor.Object{Resource: gvr, Namespace: namespace, Name: name}, reached)
	if err != nil {
		c.t.Fatal(err)
	}
	return object
}

// backUp takes a VolumeSnapshot of type bak and returns its handle.
func (c *cluster) backUp(namespace, name, claim string) string {
	c.t.Helper()
	c.apply(snapshotYAML, name, namespace, claim)
	snapshot := c.wait(resource("snapshot.storage.k8s.io", "v1", "volumesnapshots"), namespace, name,
		func(o *unstructured.Unstructured) (bool, string, error) {
			ready, _, _ := unstructured.NestedBool(o.Object, "status", "readyToUse")
			message, _, _ := unstructured.NestedString(o.Object, "status", "error", "message")
			return ready, message, nil
		})
	content, _, _ := unstructured.NestedString(snapshot.Object, "status", "boundVolumeSnapshotContentName")
	object, err := c.client.Resource(resource("snapshot.storage.k8s.io", "v1", "volumesnapshotcontents")).
		Get(c.t.Context(), content, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	handle, _, _ := unstructured.NestedString(object.Object, "status", "snapshotHandle")
	if !strings.HasPrefix(handle, "bak://") {
		c.t.Fatalf("handle %q", handle)
	}
	return handle
}

// restore makes a PVC from a handle and returns when its data is there.
func (c *cluster) restore(namespace, name, handle string) {
	c.t.Helper()
	c.apply(restoreYAML, namespace, name, handle)
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	volume, err := standin.NewDisks(c.client, c.env).Volume(ctx, namespace, name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.wait(resource("longhorn.io", "v1beta2", "volumes"), "longhorn-system", volume,
		func(o *unstructured.Unstructured) (bool, string, error) {
			initiated, _, _ := unstructured.NestedBool(o.Object, "status", "restoreInitiated")
			required, _, _ := unstructured.NestedBool(o.Object, "status", "restoreRequired")
			state, _, _ := unstructured.NestedString(o.Object, "status", "state")
			return initiated && !required && state == "detached",
				fmt.Sprintf("initiated %v, required %v, %s", initiated, required, state), nil
		})
}

func (c *cluster) testBackupAndRestore(t *testing.T) {
	c.t = t
	c.apply(snapshotClass)
	c.apply(namespaceYAML, "storage")
	c.apply(claimYAML, "disk", "storage")
	c.run("disk", "write", "--name", "one", "storage/disk", "--seed", "first", "--size", "5000000", "--offset", "12345")
	before := c.run("disk", "sha256", "--name", "one", "storage/disk")

	started := time.Now()
	handle := c.backUp("storage", "backup", "disk")
	t.Logf("backup after %s", time.Since(started).Round(time.Second))
	// The head is a new layer now; what is written goes on top of the snapshot.
	c.run("disk", "write", "--name", "one", "storage/disk", "--seed", "second", "--size", "4097", "--offset", "20000")
	after := c.run("disk", "sha256", "--name", "one", "storage/disk")
	if after == before {
		t.Error("the second write changed nothing")
	}
	started = time.Now()
	c.restore("storage", "restored", handle)
	t.Logf("restore after %s", time.Since(started).Round(time.Second))
	if got := c.run("disk", "sha256", "--name", "one", "storage/restored"); got != before {
		t.Errorf("restored disk %s, backed up was %s", got, before)
	}
	if got := c.run("disk", "sha256", "--name", "one", "storage/disk"); got != after {
		t.Error("the source changed")
	}

	second := c.backUp("storage", "backup-2", "disk")
	c.restore("storage", "restored-2", second)
	if got := c.run("disk", "sha256", "--name", "one", "storage/restored-2"); got != after {
		t.Errorf("restored disk %s, backed up was %s", got, after)
	}
}

func (c *cluster) testComponents(t *testing.T) {
	c.t = t
	var statuses []component.Status
	if err := json.Unmarshal([]byte(c.run("status", "--name", "one", "--json")), &statuses); err != nil {
		t.Fatal(err)
	}
	if !component.AllReady(statuses) {
		t.Errorf("not all ready: %+v", statuses)
	}
	if _, err := c.client.Resource(resource("storage.k8s.io", "v1", "storageclasses")).
		Get(t.Context(), "other-storage", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	classes, err := c.client.Resource(resource("snapshot.storage.k8s.io", "v1", "volumesnapshotclasses")).
		List(t.Context(), metav1.ListOptions{})
	if err != nil || len(classes.Items) != 0 {
		t.Errorf("snapshot classes in a new cluster: %v, %v", classes, err)
	}
	if out := c.run("exec", "one", "--", "cat", "/proc/1/cmdline"); !strings.Contains(out, "init") {
		t.Errorf("process 1 inside is %q", out)
	}
	if out := c.run("logs", "--name", "one", "longhorn-manager"); !strings.Contains(out, "longhorn") {
		t.Error("no log of longhorn-manager")
	}
	credentials, err := component.ReadS3Credentials(c.env)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes(t, c.env.Dir) {
		pid, _, _ := strings.Cut(p, " ")
		cmdline, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if strings.Contains(string(cmdline), credentials.SecretAccessKey) {
			t.Errorf("process %s shows the S3 key", p)
		}
	}
}

func (c *cluster) testUsers(t *testing.T) {
	c.t = t
	data := c.run("kubeconfig", "--name", "one", "--user", "alice", "--group", "dev")
	cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	alice, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pods := alice.Resource(resource("", "v1", "pods")).Namespace("longhorn-system")
	if _, err := pods.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user without rights: %v", err)
	}
	c.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dev, namespace: longhorn-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: dev}]
`)
	// The authorizer sees the binding a moment later; a review waits for nothing, so ask until it does.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err = pods.List(ctx, metav1.ListOptions{}); err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("the group's rights do not reach its member: %v", err)
		}
	}
}

func (c *cluster) testStopAndStart(t *testing.T) {
	c.t = t
	address := fmt.Sprintf("127.0.0.1:%d", c.env.S3Port)
	c.run("component", "stop", "--name", "one", "s3")
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("the S3 server answers after stop")
	}
	c.run("component", "start", "--name", "one", "s3")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("the S3 server after start: %v", err)
	}
	conn.Close()
	c.run("component", "restart", "--name", "one", "kube-apiserver", "longhorn-manager")
	if _, err := c.client.Resource(resource("", "v1", "namespaces")).Get(t.Context(), "storage", metav1.GetOptions{}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if _, stderr, err := c.try("component", "stop", "--name", "one", "nobody"); err == nil || !strings.Contains(stderr, "no such component") {
		t.Errorf("unknown component: %v, %s", err, stderr)
	}
}

func (c *cluster) testSeed(t *testing.T) {
	c.t = t
	first := c.run("seed", "--name", "one")
	if lines := strings.Split(first, "\n"); len(lines) != 6 || !strings.HasPrefix(lines[0], "demo/db-data ") {
		t.Errorf("seed printed\n%s", first)
	}
	if again := c.run("seed", "--name", "one"); again != first {
		t.Errorf("seed again printed\n%s\nbefore\n%s", again, first)
	}
}

// testSecondInstance restores in a second cluster what the first one backed up.
func (c *cluster) testSecondInstance(t *testing.T) {
	c.t = t
	before := c.run("disk", "sha256", "--name", "one", "storage/disk")
	handle := c.backUp("storage", "for-two", "disk")
	two := c.up("two", "--s3-from", "one")
	backup := handle[strings.LastIndex(handle, "/")+1:]
	two.wait(resource("longhorn.io", "v1beta2", "backups"), "longhorn-system", backup,
		func(o *unstructured.Unstructured) (bool, string, error) {
			state, _, _ := unstructured.NestedString(o.Object, "status", "state")
			return state == "Completed", "is " + state, nil
		})
	two.apply(snapshotClass)
	two.apply(namespaceYAML, "elsewhere")
	two.restore("elsewhere", "disk", handle)
	if got := two.run("disk", "sha256", "--name", "two", "elsewhere/disk"); got != before {
		t.Errorf("restored in the second cluster %s, backed up was %s", got, before)
	}
	if _, stderr, err := c.try("down", "--name", "one"); err == nil || !strings.Contains(stderr, "two uses the S3 server") {
		t.Errorf("down of the S3 server's instance: %v, %s", err, stderr)
	}
	c.run("down", "--name", "two")
}
