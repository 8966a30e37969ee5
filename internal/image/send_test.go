// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const pathSources = "/apis/longhorn.io/v1beta2/namespaces/" + kube.LonghornNamespace + "/backingimagedatasources/"

// content is the content of an image.
type content struct {
	text string
	// broken is what reading ends with, half way; empty for a whole one.
	broken string
}

func (c content) SizeBytes() int64 { return int64(len(c.text)) }
func (c content) Open() (io.ReadCloser, error) {
	if c.broken != "" {
		return io.NopCloser(io.MultiReader(strings.NewReader(c.text[:len(c.text)/2]), fails{errors.New(c.broken)})), nil
	}
	return io.NopCloser(strings.NewReader(c.text)), nil
}

type fails struct{ err error }

func (f fails) Read([]byte) (int, error) { return 0, f.err }

// longhorn takes contents of images, as Longhorn does: an image has a source, which is
// pending until somebody uploads, and ready or failed then.
type longhorn struct {
	*apiServer
	t *testing.T
	// state is what the next source begins with; pending without.
	state longhornv1.BackingImageState
	// answers are what the next uploads are answered with, in order; taken without.
	answers []answer
	got     []string
	made    int
}

type answer struct {
	code  int
	text  string
	state longhornv1.BackingImageState
}

func uploads(t *testing.T) (*longhorn, *Images) {
	t.Helper()
	s, i := cluster(t, "")
	l := &longhorn{apiServer: s, t: t}
	s.created = l.created
	s.removed = l.removed
	s.service = l.take
	return l, i
}

// removed lets go what hangs on an image.
func (l *longhorn) removed(resource string, o *unstructured.Unstructured) {
	name := o.GetName()
	if resource == harvester.ImageResource {
		name = "vmi-" + string(o.GetUID())
	}
	for _, path := range []string{pathBacking + name, pathSources + name} {
		if l.objects[path] != nil {
			l.drop(path)
		}
	}
}

func (l *longhorn) created(resource string, o *unstructured.Unstructured) {
	switch resource {
	case "backingimages":
		l.source(o.GetName())
	case harvester.ImageResource:
		l.made++
		o.SetUID(types.UID(fmt.Sprint(l.made)))
		name := "vmi-" + string(o.GetUID())
		l.store(pathBacking+name, l.object(&longhornv1.BackingImage{Spec: longhornv1.BackingImageSpec{SourceType: longhornv1.BackingImageDataSourceTypeUpload}}, name))
		l.source(name)
	}
}

func (l *longhorn) source(name string) {
	state := l.state
	if state == "" {
		state = longhornv1.BackingImageStatePending
	}
	l.state = ""
	l.made++
	ds := &longhornv1.BackingImageDataSource{}
	ds.UID, ds.Status.CurrentState = types.UID(fmt.Sprintf("source-%d", l.made)), state
	l.store(pathSources+name, l.object(ds, name))
}

func (l *longhorn) object(o runtime.Object, name string) *unstructured.Unstructured {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		l.t.Error(err)
	}
	u := &unstructured.Unstructured{Object: object}
	u.SetName(name)
	u.SetNamespace(kube.LonghornNamespace)
	return u
}

// take takes a content.
func (l *longhorn) take(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	file, header, err := r.FormFile("chunk")
	a := answer{code: 200, state: longhornv1.BackingImageStateReady}
	text := ""
	if err != nil {
		a = answer{500, err.Error(), longhornv1.BackingImageStateFailed}
	} else {
		b, _ := io.ReadAll(file)
		text = string(b)
		l.got = append(l.got, fmt.Sprintf("%s %s %s", header.Filename, r.URL.Query().Get("size"), b))
		if len(l.answers) > 0 {
			a, l.answers = l.answers[0], l.answers[1:]
		}
	}
	l.mu.Lock()
	if ds := l.objects[pathSources+name]; ds != nil && a.state != "" {
		ds = ds.DeepCopy()
		_ = unstructured.SetNestedField(ds.Object, string(a.state), "status", "currentState")
		l.store(pathSources+name, ds)
	}
	if bi := l.objects[pathBacking+name]; bi != nil && a.state == longhornv1.BackingImageStateReady {
		bi = bi.DeepCopy()
		sum := sha512.Sum512([]byte(text))
		withState(l.t, bi, a.state)
		_ = unstructured.SetNestedField(bi.Object, hex.EncodeToString(sum[:]), "status", "checksum")
		l.store(pathBacking+name, bi)
		for path, vmi := range l.objects {
			if strings.Contains(path, "/"+harvester.ImageResource+"/") {
				vmi = vmi.DeepCopy()
				vmi.Object["status"] = map[string]any{"storageClassName": "lh", "conditions": []any{map[string]any{"type": "Imported", "status": "True"}}}
				l.store(path, vmi)
			}
		}
	}
	l.mu.Unlock()
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.text)
}

// endOf has all uploads end well once something is told.
func (l *longhorn) endOf(message string) func(vmbackup.Event) {
	return func(e vmbackup.Event) {
		if !strings.Contains(e.Message, message) {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for path, o := range l.objects {
			o = o.DeepCopy()
			switch {
			case strings.HasPrefix(path, pathSources):
				_ = unstructured.SetNestedField(o.Object, "ready", "status", "currentState")
			case strings.HasPrefix(path, pathBacking):
				withState(l.t, o, longhornv1.BackingImageStateReady)
			}
			l.store(path, o)
		}
	}
}

func uploadRequest() vmbackup.ImageRequest {
	text := strings.Repeat("0123456789abcdef", 64)
	sum := sha512.Sum512([]byte(text))
	return vmbackup.ImageRequest{
		Namespace: "shop", Name: "ubuntu", Content: content{text: text}, Checksum: hex.EncodeToString(sum[:]),
		Source: vmbackup.ImageSource{Type: vmbackup.ImageUpload, File: "u.img"},
	}
}

func TestUpload(t *testing.T) {
	l, i := uploads(t)
	req := uploadRequest()
	told := &recorded{}
	image, err := create(t, i, req, vmbackup.RunOptions{Sink: told})
	if err != nil {
		t.Fatal(err)
	}
	want := "u.img 1024 " + req.Content.(content).text
	if !slices.Equal(l.got, []string{want}) || !image.Status.Ready || image.Status.Checksum != req.Checksum || image.Spec.Source.Type != vmbackup.ImageUpload {
		t.Errorf("%+v, taken %q", image, l.got)
	}
	if spec := l.has(pathBacking + image.Status.BackingImage); text(spec, "spec", "checksum") != req.Checksum || text(spec, "spec", "sourceType") != "upload" {
		t.Errorf("%v", spec.Object["spec"])
	}
	if !told.volume("upload", "u.img", 100, 1024) {
		t.Errorf("told %+v", told.events)
	}
	changes := len(l.changes())
	// The same file again, and with another name: it is there already.
	req.Source.File = "copy.img"
	if _, err := create(t, i, req, vmbackup.RunOptions{}); err != nil || len(l.got) != 1 || len(l.changes()) != changes {
		t.Errorf("again: %v, taken %d times, changes %q", err, len(l.got), l.changes())
	}
	req.Checksum = strings.Repeat("b", 128)
	if _, err := create(t, i, req, vmbackup.RunOptions{}); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
		t.Errorf("another content under the name: %v", err)
	}
	req = uploadRequest()
	req.Name, req.Checksum = "other", ""
	if _, err := i.PlanCreate(t.Context(), req); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Errorf("without a checksum: %v", err)
	}
}

func TestUploadByHarvester(t *testing.T) {
	l, i := uploads(t)
	l.served = []string{harvester.BackupResource, harvester.RestoreResource, harvester.ImageResource}
	i = New(i.clients, nil, "auto", noon)
	l.answers = []answer{{500, `{"message":"unexpected EOF"}`, longhornv1.BackingImageStateFailed}}
	image, err := create(t, i, uploadRequest(), vmbackup.RunOptions{})
	if err != nil || !image.Status.Ready || image.Status.Engine != vmbackup.EngineHarvester || len(l.got) != 2 {
		t.Errorf("%+v, %v, taken %d times", image, err, len(l.got))
	}
	if got := l.changes(); !slices.Equal(got, []string{"create virtualmachineimages/ubuntu", "delete virtualmachineimages/ubuntu", "create virtualmachineimages/ubuntu"}) {
		t.Errorf("changes %q", got)
	}
}

// What an earlier run has begun is made anew, what another one does is waited for.
func TestUploadGoesOn(t *testing.T) {
	t.Run("cut off", func(t *testing.T) {
		l, i := uploads(t)
		l.state = longhornv1.BackingImageStateFailed
		image, err := create(t, i, uploadRequest(), vmbackup.RunOptions{})
		if err != nil || !image.Status.Ready || len(l.got) != 1 {
			t.Errorf("%v, %+v, taken %d times", err, image, len(l.got))
		}
	})
	t.Run("under way", func(t *testing.T) {
		l, i := uploads(t)
		l.state = longhornv1.BackingImageStateInProgress
		told := &recorded{on: l.endOf("somebody uploads")}
		image, err := create(t, i, uploadRequest(), vmbackup.RunOptions{Sink: told})
		if err != nil || !image.Status.Ready || len(l.got) != 0 {
			t.Errorf("%v, %+v, taken %d times", err, image, len(l.got))
		}
	})
	t.Run("somebody is faster", func(t *testing.T) {
		l, i := uploads(t)
		l.answers = []answer{{500, `{"message":"file already exists"}`, longhornv1.BackingImageStateInProgress}}
		told := &recorded{on: l.endOf("somebody uploads")}
		image, err := create(t, i, uploadRequest(), vmbackup.RunOptions{Sink: told})
		if err != nil || !image.Status.Ready || len(l.got) != 1 || len(l.changes()) != 2 {
			t.Errorf("%v, %+v, taken %d times, changes %q", err, image, len(l.got), l.changes())
		}
	})
	t.Run("is not deleted meanwhile", func(t *testing.T) {
		l, i := uploads(t)
		l.answers = []answer{{503, `{"message":"gone"}`, longhornv1.BackingImageStateInProgress}}
		if _, err := create(t, i, uploadRequest(), vmbackup.RunOptions{}); vmbackup.ReasonOf(err) != vmbackup.ReasonEngineUnavailable {
			t.Fatal(err)
		}
		_, err := i.PlanDelete(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "ubuntu"})
		if e := vmbackup.AsError(err, "none"); e == nil || e.Reason != vmbackup.ReasonConflict || !e.Preflight || !strings.Contains(e.Message, "is being uploaded") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("fails for good", func(t *testing.T) {
		l, i := uploads(t)
		for range uploadAttempts {
			l.answers = append(l.answers, answer{500, `{"message":"no space left on device"}`, longhornv1.BackingImageStateFailed})
		}
		_, err := create(t, i, uploadRequest(), vmbackup.RunOptions{})
		if vmbackup.ReasonOf(err) != vmbackup.ReasonQuotaExceeded || len(l.got) != uploadAttempts {
			t.Errorf("%v, taken %d times", err, len(l.got))
		}
	})
}

func TestUploadRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		reason vmbackup.Reason
		says   string
	}{
		"nobody behind the service": {answer{503, `{"kind":"Status","status":"Failure","message":"no endpoints available","code":503}`, ""}, vmbackup.ReasonEngineUnavailable, "no endpoints available"},
		"not allowed":               {answer{403, `{"kind":"Status","status":"Failure","reason":"Forbidden","message":"services is forbidden","code":403}`, ""}, vmbackup.ReasonForbidden, "longhorn-backend"},
	} {
		t.Run(name, func(t *testing.T) {
			l, i := uploads(t)
			l.answers = []answer{tc.answer}
			_, err := create(t, i, uploadRequest(), vmbackup.RunOptions{})
			if e := vmbackup.AsError(err, "none"); e == nil || e.Reason != tc.reason || !strings.Contains(e.Message, tc.says) || e.Hint == "" || len(l.got) != 1 {
				t.Errorf("%v (%+v), taken %d times", err, e, len(l.got))
			}
		})
	}
	t.Run("a file that cannot be read", func(t *testing.T) {
		_, i := uploads(t)
		req := uploadRequest()
		req.Content = content{text: req.Content.(content).text, broken: "input/output error"}
		_, err := create(t, i, req, vmbackup.RunOptions{})
		if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), "input/output error") {
			t.Error(err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		l, i := uploads(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		plan, err := i.PlanCreate(ctx, uploadRequest())
		if err != nil {
			t.Fatal(err)
		}
		l.service = func(http.ResponseWriter, *http.Request) { cancel() }
		if _, err := i.Run(ctx, plan, vmbackup.RunOptions{}); err == nil || ctx.Err() == nil {
			t.Error(err)
		}
		// It is made anew, by whoever comes next.
		l.service = l.take
		image, err := create(t, i, uploadRequest(), vmbackup.RunOptions{})
		if err != nil || !image.Status.Ready {
			t.Errorf("%+v, %v", image, err)
		}
	})
}

func TestUploadWithoutRights(t *testing.T) {
	l, i := uploads(t)
	l.refuse = func(verb, _ string) (int, string) {
		if verb == "review" {
			return 403, ""
		}
		return 0, ""
	}
	_, err := i.PlanCreate(t.Context(), uploadRequest())
	e := vmbackup.AsError(err, "none")
	if e == nil || e.Reason != vmbackup.ReasonForbidden || !e.Preflight || !strings.Contains(e.Message+e.Hint, "services/proxy") || len(l.changes()) > 0 {
		t.Errorf("%+v, changes %q", e, l.changes())
	}
}

func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// recorded keeps events.
type recorded struct {
	events []vmbackup.Event
	on     func(vmbackup.Event)
}

func (r *recorded) Emit(e vmbackup.Event) {
	r.events = append(r.events, e)
	if r.on != nil {
		r.on(e)
	}
}

func (r *recorded) volume(step, volume string, progress int, bytes int64) bool {
	return slices.ContainsFunc(r.events, func(e vmbackup.Event) bool {
		return e.Type == vmbackup.EventVolume && e.Step == step && e.Volume == volume && e.Progress == progress && e.Bytes == bytes && e.Total == bytes
	})
}
