// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	runtimepkg "runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func randomUID(n int) types.UID { return types.UID(fmt.Sprintf("uid-%d", n)) }

const (
	pathClasses  = "/apis/storage.k8s.io/v1/storageclasses/"
	pathBacking  = "/apis/longhorn.io/v1beta2/namespaces/" + kube.LonghornNamespace + "/backingimages/"
	pathVMImages = "/apis/harvesterhci.io/v1beta1/namespaces/shop/virtualmachineimages/"
)

// cluster has the namespace shop, a default StorageClass of Longhorn's, and a Longhorn
// that gives every backing image the state.
func cluster(t *testing.T, state longhornv1.BackingImageState) (*apiServer, *Images) {
	t.Helper()
	s, clients := newAPIServer(t)
	s.put("/api/v1/namespaces/shop", map[string]any{})
	usual := storagev1.StorageClass{Provisioner: Driver, Parameters: map[string]string{
		"numberOfReplicas": "2", "diskSelector": "ssd,fast", "encrypted": "true", "csi.storage.k8s.io/provisioner-secret-name": "key",
	}}
	usual.Annotations = map[string]string{annotationDefaultS: "true"}
	s.put(pathClasses+"usual", usual)
	s.created = func(resource string, o *unstructured.Unstructured) {
		if resource == "backingimages" {
			withState(t, o, state)
		}
	}
	return s, New(clients, nil, vmbackup.EngineDirect, noon)
}

// withState is Longhorn's work on a backing image.
func withState(t *testing.T, o *unstructured.Unstructured, state longhornv1.BackingImageState) {
	t.Helper()
	bi := longhornv1.BackingImage{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &bi); err != nil {
		t.Error(err)
		return
	}
	if state != "" {
		bi.Spec.DiskFileSpecMap = map[string]*longhornv1.BackingImageDiskFileSpec{"disk": {}}
		bi.Status.DiskFileStatusMap = map[string]*longhornv1.BackingImageDiskFileStatus{"disk": {State: state, Progress: 100, Message: "got 404"}}
		bi.Status.Checksum = strings.Repeat("a", 128)
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&bi)
	if err != nil {
		t.Error(err)
		return
	}
	o.Object = object
}

func request() vmbackup.ImageRequest {
	return vmbackup.ImageRequest{Namespace: "shop", Name: "ubuntu", Source: vmbackup.ImageSource{Type: vmbackup.ImageDownload, URL: "https://example.com/u.img"}}
}

func create(t *testing.T, i *Images, req vmbackup.ImageRequest, opts vmbackup.RunOptions) (*vmbackup.Image, error) {
	t.Helper()
	plan, err := i.PlanCreate(t.Context(), req)
	if err != nil {
		return nil, err
	}
	return i.Run(t.Context(), plan, opts)
}

// TestCreate shows the objects that are made, and that a second run makes none.
func TestCreate(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	req := request()
	req.Checksum, req.DisplayName = strings.Repeat("A", 128), "Ubuntu"
	image, err := create(t, i, req, vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if image.Status.Phase != vmbackup.ImageImported || image.Status.StorageClass != "longhorn-ubuntu" || image.Spec.DisplayName != "Ubuntu" {
		t.Errorf("%+v", image)
	}
	changes := s.changes()
	if len(changes) != 2 || changes[0] != "create storageclasses/longhorn-ubuntu" || !strings.HasPrefix(changes[1], "create backingimages/vmi-") {
		t.Fatalf("changes %q", changes)
	}
	class := s.has(pathClasses + "longhorn-ubuntu")
	parameters, _, _ := unstructured.NestedStringMap(class.Object, "parameters")
	want := map[string]string{
		"numberOfReplicas": "2", "diskSelector": "ssd,fast", "backingImage": image.Status.BackingImage, "backingImageChecksum": strings.Repeat("a", 128),
	}
	if fmt.Sprint(parameters) != fmt.Sprint(want) {
		t.Errorf("parameters %v, want %v", parameters, want)
	}
	bi := s.has(pathBacking + image.Status.BackingImage)
	if id := bi.GetAnnotations()[AnnotationImage]; id != "shop/ubuntu" {
		t.Errorf("the backing image is of %q", id)
	}
	for path, want := range map[string]any{
		"sourceType": "download", "minNumberOfCopies": int64(2), "diskSelector": []any{"ssd", "fast"}, "sourceParameters": map[string]any{"url": "https://example.com/u.img"},
	} {
		if got, _, _ := unstructured.NestedFieldNoCopy(bi.Object, "spec", path); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s of the backing image is %v, want %v", path, got, want)
		}
	}
	again, err := create(t, i, req, vmbackup.RunOptions{})
	if err != nil || again.Status.BackingImage != image.Status.BackingImage || len(s.changes()) != 2 {
		t.Errorf("a second run: %v, %q", err, s.changes())
	}
}

func TestCreateRefuses(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	if _, err := create(t, i, request(), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put(pathClasses+"longhorn-other", storagev1.StorageClass{Provisioner: Driver, Parameters: map[string]string{"backingImage": "vmi-9"}})
	s.put(pathClasses+"longhorn-plain", storagev1.StorageClass{Provisioner: "other"})
	deleting := backing(longhornv1.BackingImageStateReady)
	deleting.Annotations[AnnotationImage], deleting.DeletionTimestamp = "shop/going", &metav1.Time{Time: noon()}
	s.put(pathBacking+"vmi-7", deleting)
	broken := backing(longhornv1.BackingImageStateFailed)
	broken.Annotations[AnnotationImage] = "shop/broken"
	broken.Spec.SourceParameters["url"] = request().Source.URL
	s.put(pathBacking+"vmi-8", broken)
	volume := longhornv1.Volume{}
	volume.Spec.BackingImage = "vmi-8"
	s.put("/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/pvc-8", volume)
	before := len(s.changes())
	for name, test := range map[string]struct {
		change func(*vmbackup.ImageRequest)
		refuse func(verb, resource string) (int, string)
		reason vmbackup.Reason
		says   string
	}{
		"another URL":        {func(r *vmbackup.ImageRequest) { r.Source.URL = "https://example.com/v.img" }, nil, vmbackup.ReasonAlreadyExists, "another URL"},
		"another checksum":   {func(r *vmbackup.ImageRequest) { r.Checksum = strings.Repeat("b", 128) }, nil, vmbackup.ReasonAlreadyExists, "another checksum"},
		"another class":      {func(r *vmbackup.ImageRequest) { r.StorageClass = "mine" }, nil, vmbackup.ReasonAlreadyExists, "another StorageClass"},
		"class of another":   {func(r *vmbackup.ImageRequest) { r.Name = "other" }, nil, vmbackup.ReasonAlreadyExists, "StorageClass longhorn-other exists"},
		"class of no image":  {func(r *vmbackup.ImageRequest) { r.Name = "plain" }, nil, vmbackup.ReasonAlreadyExists, "StorageClass longhorn-plain exists"},
		"is being deleted":   {func(r *vmbackup.ImageRequest) { r.Name = "going" }, nil, vmbackup.ReasonConflict, "being deleted"},
		"failed, but in use": {func(r *vmbackup.ImageRequest) { r.Name = "broken" }, nil, vmbackup.ReasonConflict, "Longhorn volume pvc-8"},
		"no namespace":       {func(r *vmbackup.ImageRequest) { r.Namespace = "moon" }, nil, vmbackup.ReasonNotFound, "no namespace moon"},
		"no rights": {func(r *vmbackup.ImageRequest) { r.Name = "new" }, func(verb, _ string) (int, string) {
			if verb == "review" {
				return 403, ""
			}
			return 0, ""
		}, vmbackup.ReasonForbidden, "create backingimages.longhorn.io in namespace longhorn-system"},
		"Longhorn refuses": {func(r *vmbackup.ImageRequest) { r.Name = "new" }, func(verb, resource string) (int, string) {
			if verb == "create" && resource == "backingimages" {
				return 422, "loopback is not allowed"
			}
			return 0, ""
		}, vmbackup.ReasonInvalidRequest, "loopback is not allowed"},
		"images not seen": {func(r *vmbackup.ImageRequest) { r.Name = "new" }, func(verb, resource string) (int, string) {
			if verb == "list" && resource == "backingimages" {
				return 403, "no"
			}
			return 0, ""
		}, vmbackup.ReasonForbidden, "backing images"},
		"no URL":      {func(r *vmbackup.ImageRequest) { r.Source.URL = "ftp://x/y" }, nil, vmbackup.ReasonInvalidRequest, "no URL of a web server"},
		"no checksum": {func(r *vmbackup.ImageRequest) { r.Checksum = "abc" }, nil, vmbackup.ReasonInvalidRequest, "no SHA-512"},
	} {
		t.Run(name, func(t *testing.T) {
			req := request()
			test.change(&req)
			s.refuse = test.refuse
			defer func() { s.refuse = nil }()
			_, err := i.PlanCreate(t.Context(), req)
			e := vmbackup.AsError(err, vmbackup.ReasonInternal)
			if e == nil || e.Reason != test.reason || !e.Preflight || !strings.Contains(e.Message, test.says) {
				t.Errorf("%+v, want %s %q", e, test.reason, test.says)
			}
		})
	}
	if got := len(s.changes()); got != before {
		t.Errorf("a plan has changed something: %q", s.changes()[before:])
	}
}

// TestCreateGoesOn shows that a run which was cut off after each of its changes is
// finished by the next one, with no object twice.
func TestCreateGoesOn(t *testing.T) {
	for _, after := range []string{"storageclasses", "backingimages"} {
		t.Run(after, func(t *testing.T) {
			s, i := cluster(t, longhornv1.BackingImageStateReady)
			plan, err := i.PlanCreate(t.Context(), request())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cut := context.WithCancel(t.Context())
			longhorn := s.created
			s.created = func(resource string, o *unstructured.Unstructured) {
				longhorn(resource, o)
				if resource == after {
					cut()
				}
			}
			if _, err := i.Run(ctx, plan, vmbackup.RunOptions{}); err == nil {
				t.Fatal("it was not cut off")
			}
			if _, err := create(t, i, request(), vmbackup.RunOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := s.changes(); len(got) != 2 {
				t.Errorf("changes %q", got)
			}
		})
	}
}

// TestTwoAtOnce shows that two runs make one image.
func TestTwoAtOnce(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	var plans []*vmbackup.ImagePlan
	for range 2 {
		plan, err := i.PlanCreate(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, plan)
	}
	images := make([]*vmbackup.Image, 2)
	var group sync.WaitGroup
	for n, plan := range plans {
		group.Go(func() {
			var err error
			if images[n], err = i.Run(t.Context(), plan, vmbackup.RunOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	if images[0].Status.BackingImage != images[1].Status.BackingImage || len(s.changes()) != 2 {
		t.Errorf("%s and %s, changes %q", images[0].Status.BackingImage, images[1].Status.BackingImage, s.changes())
	}
}

// TestFailedIsMadeAnew shows that an import which failed is told with its cause, and
// made anew by the same command once the cause is gone.
func TestFailedIsMadeAnew(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateFailedAndCleanUp)
	var events []vmbackup.Event
	image, err := create(t, i, request(), vmbackup.RunOptions{Sink: vmbackup.SinkFunc(func(e vmbackup.Event) { events = append(events, e) })})
	failed := vmbackup.AsError(err, vmbackup.ReasonInternal)
	if failed == nil || failed.Reason != vmbackup.ReasonNotFound || !strings.Contains(failed.Message, "got 404") || failed.Hint == "" || failed.Preflight {
		t.Fatalf("%+v", failed)
	}
	if image.Status.Phase != vmbackup.ImageFailed {
		t.Errorf("it is %s", image.Status.Phase)
	}
	if first, last := events[0], events[len(events)-1]; first.Type != vmbackup.EventPlan || len(first.Steps) != 3 || last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseFailed || last.Reason != vmbackup.ReasonNotFound {
		t.Errorf("first %+v, last %+v", first, last)
	}
	s.created = func(resource string, o *unstructured.Unstructured) {
		if resource == "backingimages" {
			withState(t, o, longhornv1.BackingImageStateReady)
		}
	}
	name := image.Status.BackingImage
	// Longhorn's source of the failed image goes a moment after the image itself.
	source := "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backingimagedatasources/" + name
	s.put(source, map[string]any{})
	go func() {
		for !slices.Contains(s.changes(), "delete backingimages/"+name) && t.Context().Err() == nil {
			runtimepkg.Gosched()
		}
		if got := s.changes(); got[len(got)-1] != "delete backingimages/"+name {
			t.Errorf("made anew while the failed one is still going: %q", got)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(source)
	}()
	if image, err = create(t, i, request(), vmbackup.RunOptions{}); err != nil || !image.Status.Ready || image.Status.BackingImage != name {
		t.Fatalf("%v, %+v", err, image.Status)
	}
	want := []string{"create storageclasses/longhorn-ubuntu", "create backingimages/" + name, "delete backingimages/" + name, "create backingimages/" + name}
	if got := s.changes(); !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

// TestNotWaiting shows that a run which is not to wait ends with the image in progress.
func TestNotWaiting(t *testing.T) {
	_, i := cluster(t, longhornv1.BackingImageStateInProgress)
	image, err := create(t, i, request(), vmbackup.RunOptions{NoWait: true})
	if err != nil || image.Status.Phase != vmbackup.ImageInProgress {
		t.Errorf("%v, %+v", err, image.Status)
	}
}

// TestFollow shows that an image is in progress until one replica is ready.
func TestFollow(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStatePending)
	plan, err := i.PlanCreate(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	states := []longhornv1.BackingImageState{longhornv1.BackingImageStateInProgress, longhornv1.BackingImageStateReadyForTransfer, longhornv1.BackingImageStateReady}
	var told []vmbackup.State
	image, err := i.Run(t.Context(), plan, vmbackup.RunOptions{Sink: vmbackup.SinkFunc(func(e vmbackup.Event) {
		if e.Type != vmbackup.EventVolume {
			return
		}
		if told = append(told, e.State); len(states) > 0 {
			next := states[0]
			states = states[1:]
			go func() { // the sink must not block
				o := s.has(pathBacking + plan.Image.Status.BackingImage).DeepCopy()
				withState(t, o, next)
				status := o.Object["status"].(map[string]any)["diskFileStatusMap"].(map[string]any)["disk"].(map[string]any)
				status["progress"] = int64(100 - len(states))
				s.put(pathBacking+o.GetName(), o.Object)
			}()
		}
	})})
	if err != nil || !image.Status.Ready {
		t.Fatalf("%v %+v", err, image)
	}
	want := []vmbackup.State{vmbackup.StatePending, vmbackup.StateRunning, vmbackup.StateRunning, vmbackup.StateReady}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestCreateByHarvester shows that Harvester's controllers are asked, and followed.
func TestCreateByHarvester(t *testing.T) {
	s, _ := cluster(t, longhornv1.BackingImageStateReady)
	s.served = []string{harvester.BackupResource, harvester.RestoreResource, harvester.ImageResource}
	_, i := cluster(t, "")
	i = New(i.clients, nil, "auto", noon)
	if by, err := i.byHarvester(t.Context()); by || err != nil {
		t.Errorf("a cluster without Harvester: %v %v", by, err)
	}
	if _, err := New(i.clients, nil, vmbackup.EngineHarvester, noon).PlanCreate(t.Context(), request()); vmbackup.ReasonOf(err) != vmbackup.ReasonEngineUnavailable {
		t.Errorf("Harvester is asked for where it is not: %v", err)
	}
	s, i = harvesterCluster(t)
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if image.Status.Engine != vmbackup.EngineHarvester || image.Status.StorageClass != "lh-1" || !image.Status.Ready {
		t.Errorf("%+v", image.Status)
	}
	if got := s.changes(); !slices.Equal(got, []string{"create virtualmachineimages/ubuntu"}) {
		t.Errorf("changes %q", got)
	}
	if _, err := New(i.clients, nil, vmbackup.EngineDirect, noon).PlanCreate(t.Context(), request()); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
		t.Errorf("an image of Harvester's is made by the plugin: %v", err)
	}
	for _, change := range []func(*vmbackup.ImageRequest){
		func(r *vmbackup.ImageRequest) { r.Replicas = 2 }, func(r *vmbackup.ImageRequest) { r.StorageClass = "x" },
	} {
		req := request()
		req.Name = "other"
		change(&req)
		if _, err := i.PlanCreate(t.Context(), req); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// harvesterCluster is a cluster whose Harvester imports every image at once.
func harvesterCluster(t *testing.T) (*apiServer, *Images) {
	t.Helper()
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	s.served = []string{harvester.BackupResource, harvester.RestoreResource, harvester.ImageResource}
	s.put(pathClasses+"lh-1", class("lh-1", "vmi-1"))
	s.created = func(resource string, o *unstructured.Unstructured) {
		if resource != harvester.ImageResource {
			return
		}
		o.SetUID("1")
		bi := backing(longhornv1.BackingImageStateReady)
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(bi)
		if err != nil {
			t.Error(err)
		}
		s.store(pathBacking+"vmi-1", &unstructured.Unstructured{Object: object})
		o.Object["status"] = map[string]any{
			"storageClassName": "lh-1", "conditions": []any{map[string]any{"type": "Imported", "status": "True"}},
		}
	}
	return s, New(i.clients, nil, "auto", noon)
}
