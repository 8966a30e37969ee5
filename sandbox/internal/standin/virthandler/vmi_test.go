// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

// rig is a handler over fake clients. Objects arrive by show, as by a watch.
type rig struct {
	*Handler
	t     *testing.T
	clock *clocktesting.FakeClock
}

func object(kind, apiVersion, namespace, name string, fields map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: fields}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func newRig(t *testing.T, vmi *virtv1.VirtualMachineInstance) *rig {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "virt-launcher-vm",
			Labels:      map[string]string{virtv1.AppLabel: "virt-launcher", virtv1.CreatedByLabel: string(vmi.UID)},
			Annotations: map[string]string{virtv1.DomainAnnotation: vmi.Name},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "127.0.0.1",
			ContainerStatuses: []corev1.ContainerStatus{{Name: "compute", Ready: true}},
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	cluster := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		vmiResource: "VirtualMachineInstanceList",
		{Group: "longhorn.io", Version: "v1beta2", Resource: "volumes"}:           "VolumeList",
		{Group: "longhorn.io", Version: "v1beta2", Resource: "volumeattachments"}: "VolumeAttachmentList",
		{Version: "v1", Resource: "persistentvolumeclaims"}:                       "PersistentVolumeClaimList",
		{Version: "v1", Resource: "persistentvolumes"}:                            "PersistentVolumeList",
	},
		object("PersistentVolumeClaim", "v1", "default", "root-pvc", map[string]any{
			"spec": map[string]any{"volumeName": "pv-1"}, "status": map[string]any{"phase": "Bound"},
		}),
		object("PersistentVolume", "v1", "", "pv-1", map[string]any{
			"spec": map[string]any{"csi": map[string]any{"driver": "driver.longhorn.io", "volumeHandle": "pv-1"}},
		}),
		object("Volume", "longhorn.io/v1beta2", "longhorn-system", "pv-1", map[string]any{
			"status": map[string]any{"state": "attached", "restoreRequired": false},
		}),
		object("VolumeAttachment", "longhorn.io/v1beta2", "longhorn-system", "pv-1", map[string]any{
			"spec": map[string]any{"attachmentTickets": map[string]any{"snapshot-1": map[string]any{"id": "snapshot-1"}}},
		}),
	)
	env := &component.Env{Dir: t.TempDir()}
	clk := clocktesting.NewFakeClock(now.Time)
	r := &rig{t: t, clock: clk, Handler: &Handler{
		env: env, core: fake.NewClientset(pod), cluster: cluster, vmis: cluster,
		disks: standin.NewDisks(cluster, env),
		store: cache.NewStore(cache.MetaNamespaceKeyFunc),
		pods: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byVMI: func(o any) ([]string, error) {
			return []string{vmiOf(o)}, nil
		}}),
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		recorder: record.NewFakeRecorder(100),
		clock:    clk,
		guests:   map[string]*guest.Guest{},
		ended:    map[string]virtv1.VirtualMachineInstancePhase{},
	}}
	if err := r.pods.Add(pod); err != nil {
		t.Fatal(err)
	}
	raw := r.encode(vmi)
	if _, err := cluster.Resource(vmiResource).Namespace("default").Create(t.Context(), raw, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.show(raw)
	return r
}

func (r *rig) encode(vmi *virtv1.VirtualMachineInstance) *unstructured.Unstructured {
	r.t.Helper()
	content, err := asJSON(vmi)
	if err != nil {
		r.t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: content}
}

func (r *rig) show(raw *unstructured.Unstructured) {
	r.t.Helper()
	if err := r.store.Add(raw); err != nil {
		r.t.Fatal(err)
	}
}

// step syncs the VMI, lets the result arrive by the watch, and returns it.
func (r *rig) step() (*virtv1.VirtualMachineInstance, time.Duration) {
	r.t.Helper()
	again, err := r.sync(r.t.Context(), "default/vm")
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := r.vmis.Resource(vmiResource).Namespace("default").Get(r.t.Context(), "vm", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.show(raw)
	_, vmi, err := r.lookup("default/vm")
	if err != nil {
		r.t.Fatal(err)
	}
	return vmi, again
}

func (r *rig) tickets() map[string]any {
	r.t.Helper()
	resource, namespace := longhornResource("volumeattachments")
	attachment, err := r.cluster.Resource(resource).Namespace(namespace).Get(r.t.Context(), "pv-1", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	tickets, _, err := unstructured.NestedMap(attachment.Object, "spec", "attachmentTickets")
	if err != nil {
		r.t.Fatal(err)
	}
	return tickets
}

func (r *rig) pod() *corev1.Pod {
	r.t.Helper()
	pod, err := r.core.CoreV1().Pods("default").Get(r.t.Context(), "virt-launcher-vm", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return pod
}

// delete marks the VMI as being deleted; its finalizer keeps it.
func (r *rig) delete(vmi *virtv1.VirtualMachineInstance) {
	r.t.Helper()
	at := metav1.NewTime(r.clock.Now())
	vmi.DeletionTimestamp, vmi.Finalizers = &at, []string{"foregroundDeleteVirtualMachine"}
	raw := r.encode(vmi)
	if _, err := r.vmis.Resource(vmiResource).Namespace("default").Update(r.t.Context(), raw, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.show(raw)
}

func (r *rig) put(action, body string) (int, string) {
	request := httptest.NewRequestWithContext(r.t.Context(), http.MethodPut,
		"/v1/namespaces/default/virtualmachineinstances/vm/"+action, strings.NewReader(body))
	recorder := httptest.NewRecorder()
	r.routes().ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

func TestLifeOfAVMI(t *testing.T) {
	r := newRig(t, scheduledVMI())
	vmi, _ := r.step()
	if vmi.Status.Phase != virtv1.Running {
		t.Fatalf("phase %s", vmi.Status.Phase)
	}
	if _, held := r.tickets()["sandbox-guest-uid-1"]; !held {
		t.Fatalf("running, but the volume's tickets are %v", r.tickets())
	}

	if code, body := r.put("freeze", `{"unfreezeTimeout":"30s"}`); code != http.StatusAccepted {
		t.Fatalf("freeze: %d %s", code, body)
	}
	if vmi, _ = r.step(); vmi.Status.FSFreezeStatus != "frozen" {
		t.Fatalf("fsFreezeStatus %q after a freeze", vmi.Status.FSFreezeStatus)
	}
	if code, body := r.put("unfreeze", ""); code != http.StatusAccepted {
		t.Fatalf("unfreeze: %d %s", code, body)
	}
	if vmi, _ = r.step(); vmi.Status.FSFreezeStatus != "" {
		t.Fatalf("fsFreezeStatus %q after an unfreeze", vmi.Status.FSFreezeStatus)
	}

	r.delete(vmi)
	if vmi, _ = r.step(); vmi.Status.Phase != virtv1.Succeeded {
		t.Fatalf("phase %s after the deletion", vmi.Status.Phase)
	}
	if pod := r.pod(); pod.Status.Phase != corev1.PodRunning {
		t.Fatalf("the launcher is %s before its VMI was seen to end", pod.Status.Phase)
	}
	r.step()
	pod := r.pod()
	if pod.Status.Phase != corev1.PodSucceeded || pod.Status.ContainerStatuses[0].State.Terminated == nil ||
		pod.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Fatalf("the launcher ended as %+v", pod.Status)
	}
	if tickets := r.tickets(); len(tickets) != 1 || tickets["snapshot-1"] == nil {
		t.Fatalf("after the end the volume's tickets are %v: the guest's must be gone, others stay", tickets)
	}
	if code, _ := r.put("freeze", `{"unfreezeTimeout":"30s"}`); code != http.StatusInternalServerError {
		t.Fatalf("freezing an ended guest gave %d", code)
	}
}

func TestNotRunningWhileTheVolumeIsRestored(t *testing.T) {
	r := newRig(t, scheduledVMI())
	resource, namespace := longhornResource("volumes")
	volumes := r.cluster.Resource(resource).Namespace(namespace)
	restored := func(required bool) {
		volume, err := volumes.Get(t.Context(), "pv-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(volume.Object, required, "status", "restoreRequired"); err != nil {
			t.Fatal(err)
		}
		if _, err := volumes.Update(t.Context(), volume, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	restored(true)
	if _, err := r.sync(t.Context(), "default/vm"); err == nil || !strings.Contains(err.Error(), "being restored") {
		t.Fatalf("sync gave %v", err)
	}
	if _, held := r.tickets()["sandbox-guest-uid-1"]; held {
		t.Fatal("a volume was attached before its content was there")
	}
	restored(false)
	if vmi, _ := r.step(); vmi.Status.Phase != virtv1.Running {
		t.Fatalf("phase %s after the restore", vmi.Status.Phase)
	}
}

func TestGuestThatIgnoresThePowerButton(t *testing.T) {
	vmi := scheduledVMI()
	vmi.Annotations = map[string]string{guest.ShutdownAnnotation: guest.Ignore}
	r := newRig(t, vmi)
	vmi, _ = r.step()
	r.delete(vmi)
	vmi, again := r.step()
	if vmi.Status.Phase != virtv1.Running || again != defaultGracePeriod {
		t.Fatalf("phase %s, look again in %s", vmi.Status.Phase, again)
	}
	r.clock.Step(defaultGracePeriod)
	if vmi, _ = r.step(); vmi.Status.Phase != virtv1.Failed {
		t.Fatalf("phase %s after the grace period", vmi.Status.Phase)
	}
}

func TestCrash(t *testing.T) {
	r := newRig(t, scheduledVMI())
	r.step()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	request.SetPathValue("namespace", "default")
	request.SetPathValue("name", "vm")
	request.SetPathValue("action", Crash)
	if err := r.power(request); err != nil {
		t.Fatal(err)
	}
	if vmi, _ := r.step(); vmi.Status.Phase != virtv1.Failed {
		t.Fatalf("phase %s after a crash", vmi.Status.Phase)
	}
	r.step()
	if pod := r.pod(); pod.Status.Phase != corev1.PodFailed {
		t.Fatalf("the launcher of a crashed guest is %s", pod.Status.Phase)
	}
}

func TestFreezeRequests(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		body, want  string
		code        int
	}{
		"no timeout":  {body: `{}`, code: http.StatusBadRequest, want: "is not set"},
		"no JSON":     {body: `{`, code: http.StatusBadRequest, want: "failed to unmarshal"},
		"empty":       {code: http.StatusBadRequest, want: "is not set"},
		"no agent":    {annotations: map[string]string{guest.AgentAnnotation: guest.Absent}, body: `{"unfreezeTimeout":"1s"}`, code: http.StatusBadRequest, want: "not connected"},
		"agent fails": {annotations: map[string]string{guest.FreezeAnnotation: guest.Fail}, body: `{"unfreezeTimeout":"1s"}`, code: http.StatusBadRequest, want: "guest-fsfreeze-freeze"},
	} {
		t.Run(name, func(t *testing.T) {
			vmi := scheduledVMI()
			vmi.Annotations = test.annotations
			r := newRig(t, vmi)
			r.step()
			code, body := r.put("freeze", test.body)
			if code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("%d %s", code, body)
			}
			windows, err := guest.NewJournal(JournalDir(r.env), "default", "vm").Windows()
			if err != nil || len(windows) != 0 {
				t.Errorf("recorded %v, %v", windows, err)
			}
		})
	}
}

func TestOrphanedTicketsAreReleased(t *testing.T) {
	r := newRig(t, scheduledVMI())
	r.step()
	if err := r.releaseOrphans(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, held := r.tickets()["sandbox-guest-uid-1"]; !held {
		t.Fatal("the ticket of a live guest was released")
	}
	if err := r.store.Replace(nil, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.releaseOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tickets := r.tickets(); len(tickets) != 1 {
		t.Fatalf("tickets %v are left of a guest whose VMI is gone", tickets)
	}
}
