// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// newKubelet has the given pods in its cache and in the API.
func newKubelet(t *testing.T, pods ...*corev1.Pod) *Kubelet {
	t.Helper()
	k := &Kubelet{
		client: fake.NewClientset(),
		env:    &component.Env{Dir: t.TempDir()},
		pods:   cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	t.Cleanup(k.queue.ShutDown)
	if err := os.Mkdir(k.env.Path("logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	k.restart(t)
	for _, pod := range pods {
		if err := k.pods.Add(pod); err != nil {
			t.Fatal(err)
		}
		if _, err := k.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// restart gives the stand-in a new runner, as a new process would have; what runs is ended with the test.
func (k *Kubelet) restart(t *testing.T) {
	t.Helper()
	runner, err := newPodRunner(k.env, k.queue.Add)
	if err != nil {
		t.Fatal(err)
	}
	k.runner = runner
	t.Cleanup(func() {
		for key := range runner.processes {
			runner.stop(key, 0)
		}
	})
}

func newPod(namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid"},
		Spec: corev1.PodSpec{
			NodeName:       component.NodeName,
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers:     []corev1.Container{{Name: "main", Image: "image:1"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// sync syncs one pod and returns what the API holds then; nil when it is gone.
func (k *Kubelet) syncOnce(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	if err := k.syncPod(t.Context(), namespace+"/"+name); err != nil {
		t.Fatal(err)
	}
	pod, err := k.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := k.pods.Update(pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestOrdinaryPodIsReportedReady(t *testing.T) {
	k := newKubelet(t, newPod("demo", "app", nil))
	pod := k.syncOnce(t, "demo", "app")
	if pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP != hostIP {
		t.Errorf("status %+v", pod.Status)
	}
	main, first := pod.Status.ContainerStatuses[0], pod.Status.InitContainerStatuses[0]
	if main.State.Running == nil || !main.Ready || first.State.Terminated == nil {
		t.Errorf("containers: %+v, %+v", main, first)
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.PodScheduled} {
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == kind && c.Status == corev1.ConditionTrue
		}) {
			t.Errorf("condition %s is not true", kind)
		}
	}
}

// kube-apiserver proxies to longhorn-manager, and to no loopback address.
func TestManagerIsReachedByTheAPIServer(t *testing.T) {
	k := newKubelet(t, newPod("longhorn-system", "longhorn-manager-x", func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "longhorn-manager"}
	}))
	pod := k.syncOnce(t, "longhorn-system", "longhorn-manager-x")
	if ip := net.ParseIP(pod.Status.PodIP); pod.Status.PodIP != component.RoutableIP || ip.IsLoopback() || pod.Status.HostIP != hostIP {
		t.Errorf("address %s on node %s", pod.Status.PodIP, pod.Status.HostIP)
	}
}

func TestUnscheduledPodIsBound(t *testing.T) {
	k := newKubelet(t,
		newPod("demo", "free", func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		newPod("demo", "gated", func(p *corev1.Pod) {
			p.Spec.NodeName = ""
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
		}))
	k.syncOnce(t, "demo", "free")
	k.syncOnce(t, "demo", "gated")
	var bound []string
	for _, action := range k.client.(*fake.Clientset).Actions() {
		if action.GetSubresource() == "binding" {
			bound = append(bound, action.GetVerb())
		}
	}
	if len(bound) != 1 {
		t.Errorf("%d bindings, want that of the pod without a gate", len(bound))
	}
}

func TestFinishedPodsStayFinished(t *testing.T) {
	k := newKubelet(t, newPod("demo", "done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	if pod := k.syncOnce(t, "demo", "done"); pod.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase %s", pod.Status.Phase)
	}
}

func TestLauncherOfARunningGuestIsNotFinishedEarly(t *testing.T) {
	deleted := func(phase corev1.PodPhase, at time.Time) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Labels = map[string]string{"kubevirt.io": "virt-launcher"}
			p.Finalizers = []string{"test"} // without one a deletion timestamp is refused
			p.DeletionTimestamp = &metav1.Time{Time: at}
			p.Status.Phase = phase
		}
	}
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	k := newKubelet(t,
		newPod("demo", "running", deleted(corev1.PodRunning, later)),
		newPod("demo", "overdue", deleted(corev1.PodRunning, before)),
		newPod("demo", "ended", deleted(corev1.PodSucceeded, later)))
	for name, wantDeleted := range map[string]bool{"running": false, "overdue": true, "ended": true} {
		k.client.(*fake.Clientset).ClearActions()
		if err := k.syncPod(t.Context(), "demo/"+name); err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(k.client.(*fake.Clientset).Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "delete" })
		if got != wantDeleted {
			t.Errorf("%s: finished %v, want %v", name, got, wantDeleted)
		}
	}
}

// instancePod is one of the pods whose command runs; the command is a shell script.
func instancePod(t *testing.T, kind, script string) *corev1.Pod {
	t.Helper()
	return newPod("longhorn-system", "pod", func(p *corev1.Pod) {
		p.Labels = map[string]string{"longhorn.io/component": kind}
		p.Spec.Containers[0].Command = []string{"/bin/sh", "-c", script}
		p.Spec.Containers[0].Env = []corev1.EnvVar{
			{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "PLAIN", Value: "plain"},
		}
	})
}

func TestInstancePodRunsItsCommandAndFailsWithIt(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	k := newKubelet(t, instancePod(t, "backing-image-manager", `echo "$POD_IP $PLAIN" >`+out+`; read line <`+out+`; sleep 1000`))
	pod := k.syncOnce(t, "longhorn-system", "pod")
	if pod.Status.Phase != corev1.PodRunning || !strings.HasPrefix(pod.Status.PodIP, "127.0.1.") {
		t.Fatalf("status %+v", pod.Status)
	}
	p := k.runner.get("longhorn-system/pod", "uid")
	if p == nil {
		t.Fatal("no process")
	}
	if again := k.syncOnce(t, "longhorn-system", "pod"); again.Status.Phase != corev1.PodRunning || k.runner.get("longhorn-system/pod", "uid") != p {
		t.Error("a second sync disturbed it")
	}
	p.stop(0)
	if pod := k.syncOnce(t, "longhorn-system", "pod"); pod.Status.Phase != corev1.PodFailed || !strings.HasPrefix(pod.Status.Message, "signal: ") {
		t.Errorf("after the kill: %s %q", pod.Status.Phase, pod.Status.Message)
	}
}

func TestNextKubeletTakesTheProcessesOver(t *testing.T) {
	k := newKubelet(t, instancePod(t, "backing-image-manager", "sleep 1000"))
	before := k.syncOnce(t, "longhorn-system", "pod")
	first := k.runner.get("longhorn-system/pod", "uid")
	k.restart(t)
	adopted := k.runner.get("longhorn-system/pod", "uid")
	if adopted == nil || adopted.Process != first.Process || adopted.IP != before.Status.PodIP {
		t.Fatalf("adopted %+v, want %+v", adopted, first)
	}
	if pod := k.syncOnce(t, "longhorn-system", "pod"); pod.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %s after the restart", pod.Status.Phase)
	}
	if ip, _ := k.runner.listenAddress([]string{"backing-image-manager"}); ip == adopted.IP {
		t.Error("its address was given away")
	}
	adopted.stop(time.Minute)
	if pod := k.syncOnce(t, "longhorn-system", "pod"); pod.Status.Phase != corev1.PodFailed {
		t.Errorf("phase %s after the process ended", pod.Status.Phase)
	}
}

func TestPodWhoseProcessIsGoneHasFailed(t *testing.T) {
	pod := instancePod(t, "instance-manager", "sleep 1000")
	pod.Status.Phase = corev1.PodRunning
	k := newKubelet(t, pod)
	if got := k.syncOnce(t, "longhorn-system", "pod"); got.Status.Phase != corev1.PodFailed {
		t.Errorf("phase %s: nobody runs its process", got.Status.Phase)
	}
}

func TestListenAddress(t *testing.T) {
	r := &podRunner{nextIP: 1}
	argv := []string{"backing-image-manager", "--listen", ":8000", "--sync-listen", ":8001", "--url", "http://x:80"}
	ip, address := r.listenAddress(argv)
	want := []string{"backing-image-manager", "--listen", ip + ":8000", "--sync-listen", ip + ":8001", "--url", "http://x:80"}
	if !slices.Equal(argv, want) || address != net.JoinHostPort(ip, "8000") {
		t.Errorf("%v serves at %s", argv, address)
	}
	other, _ := r.listenAddress([]string{"backing-image-manager", "--listen", ":8000"})
	if other == ip {
		t.Error("two programs share an address")
	}
	manager := []string{"instance-manager", "daemon", "--listen", ":8500"}
	if ip, address := r.listenAddress(manager); ip != hostIP || manager[3] != ":8500" || address != "127.0.0.1:8500" {
		t.Errorf("the instance manager %v serves at %s", manager, address)
	}
}

func TestMissingProgramFailsThePod(t *testing.T) {
	pod := instancePod(t, "instance-manager", "")
	pod.Spec.Containers[0].Command = []string{"no-such-program"}
	k := newKubelet(t, pod)
	if got := k.syncOnce(t, "longhorn-system", "pod"); got.Status.Phase != corev1.PodFailed || !strings.Contains(got.Status.Message, "no-such-program") {
		t.Errorf("%s %q", got.Status.Phase, got.Status.Message)
	}
	if _, err := os.Stat(k.env.Path("logs", "pod-pod.log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a log of a program that never ran: %v", err)
	}
}
