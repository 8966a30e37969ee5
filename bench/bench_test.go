// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestProxyCountsWhatAClientAsks(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer of-the-cluster" {
			t.Errorf("the API server got authorization %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"SecretList","apiVersion":"v1","items":[]}`)
	}))
	defer api.Close()
	proxy, err := startProxy(t.Context(), &rest.Config{Host: api.URL, BearerToken: "of-the-cluster"})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()

	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := proxy.WriteKubeconfig(path); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := client.CoreV1().Secrets("a").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	watching, err := client.CoreV1().Secrets("a").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watching.Stop()

	got := summarize(proxy.reset())
	want := requestCount{Total: 4, MostReads: 3, MostRead: "/api/v1/namespaces/a/secrets"}
	if got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if after := summarize(proxy.reset()); after.Total != 0 {
		t.Errorf("after a reset %d requests are left", after.Total)
	}
}

func TestProxyRefusesOthers(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request without the token reached the API server")
	}))
	defer api.Close()
	proxy, err := startProxy(t.Context(), &rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+proxy.Address()+"/api", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("status is %s", response.Status)
	}
}

func TestReportSaysWhichGoalHolds(t *testing.T) {
	r := newReport()
	r.addGoal("fast", 0.9, 1, "x", "once")
	r.addGoal("slow", 1.5, 1, "x", "once")
	r.add("size", 12.34, "MiB", "once")
	if missed := r.missed(); len(missed) != 1 || missed[0] != "slow" {
		t.Errorf("missed is %v, want slow", missed)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		if len(fields) > 0 {
			rows[fields[0]] = strings.Join(fields, " ")
		}
	}
	for name, want := range map[string]string{
		"fast": "fast 0.900 x <= 1 x yes once",
		"slow": "slow 1.500 x <= 1 x NO once",
		"size": "size 12.3 MiB - - once",
	} {
		if rows[name] != want {
			t.Errorf("row %q, want %q", rows[name], want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
	if m := median(nil); m == m {
		t.Errorf("median of nothing is %v, want not a number", m)
	}
}

func TestCIFiguresComeFromTheLastRun(t *testing.T) {
	dir := t.TempDir()
	p := &programs{bin: dir}
	r := newReport()
	if err := p.measureCI(context.WithoutCancel(t.Context()), r); err != nil || len(r.Figures) != 0 {
		t.Errorf("without a run: %v, %v", r.Figures, err)
	}
	timings := "lint\t20\t0\nsandbox-build\t700\t0\ne2e\t90\t1\nci\t1600\t0\n"
	if err := os.WriteFile(filepath.Join(dir, "timings.tsv"), []byte(timings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.measureCI(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) != 2 || r.Figures[0].Value != 700 || r.Figures[1].Value != 1600 || *r.Figures[1].Holds {
		t.Errorf("figures are %+v", r.Figures)
	}
}

func TestBelongsTo(t *testing.T) {
	for environment, want := range map[string]bool{
		"A=b\x00SANDBOX_INSTANCE=/x/.sandbox/bench\x00":   true,
		"A=b\x00SANDBOX_INSTANCE=/x/.sandbox/default\x00": false,
		"A=b\x00":                             false,
		"XSANDBOX_INSTANCE=/x/.sandbox/bench": false,
	} {
		if got := belongsTo([]byte(environment), "bench"); got != want {
			t.Errorf("%q belongs to bench: %v, want %v", environment, got, want)
		}
	}
}

func TestReadBackupTakesOneOrAListOfOne(t *testing.T) {
	const one = `{"apiVersion":"vmbackup.io/v1alpha1","kind":"Backup","metadata":{"name":"x"},"spec":{},"status":{"freezeSeconds":0.25}}`
	for _, text := range []string{one, `{"kind":"List","items":[` + one + `]}`} {
		backup, err := readBackup([]byte(text))
		if err != nil || backup.Metadata.Name != "x" || backup.Status.FreezeSeconds != 0.25 {
			t.Errorf("%s: %+v, %v", text, backup, err)
		}
	}
	for _, text := range []string{`{"kind":"List","items":[]}`, `Ready`} {
		if _, err := readBackup([]byte(text)); err == nil {
			t.Errorf("%s is taken for a backup", text)
		}
	}
}

func TestWaitForTheAgentTakesOnlyARunningGuest(t *testing.T) {
	instance := func(phase kubevirtv1.VirtualMachineInstancePhase, agent corev1.ConditionStatus) *kubevirtv1.VirtualMachineInstance {
		return &kubevirtv1.VirtualMachineInstance{Status: kubevirtv1.VirtualMachineInstanceStatus{
			Phase:      phase,
			Conditions: []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceAgentConnected, Status: agent}},
		}}
	}
	early := watch.NewFakeWithChanSize(2, false)
	early.Add(instance(kubevirtv1.Scheduling, corev1.ConditionTrue))
	early.Modify(instance(kubevirtv1.Running, corev1.ConditionFalse))
	early.Stop()
	if err := untilAgentAnswers(t.Context(), early, "vm"); err == nil {
		t.Error("a guest whose agent never answered is taken for ready")
	}
	ready := watch.NewFakeWithChanSize(1, false)
	ready.Add(instance(kubevirtv1.Running, corev1.ConditionTrue))
	if err := untilAgentAnswers(t.Context(), ready, "vm"); err != nil {
		t.Error(err)
	}
}

func TestLastCompletionWaitsForAllVolumes(t *testing.T) {
	seen := make(completions, 2)
	first := time.Unix(100, 0)
	seen <- first
	seen <- first.Add(time.Second)
	last, err := seen.last(t.Context(), 2)
	if err != nil || !last.Equal(first.Add(time.Second)) {
		t.Errorf("last is %v, %v", last, err)
	}
	close(seen)
	if _, err := seen.last(t.Context(), 1); err == nil {
		t.Error("a watch that ended early gives a time")
	}
}
