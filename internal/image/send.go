// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	stepUpload = "upload"
	// formField is the name under which Longhorn looks for the content
	// (backing-image-manager, pkg/sync/service.go).
	formField = "chunk"
	// tellEvery is how often the progress of an upload is told.
	tellEvery = 500 * time.Millisecond
	// uploadAttempts is how often an upload is tried in one run: what an earlier run has
	// left unfinished is made anew, and a run beside this one may be faster.
	uploadAttempts = 3
	// stateLags is how long the state that Longhorn tells of an upload may lag behind.
	stateLags = 15 * time.Second
)

// backend is Longhorn's own API, which alone takes the content of an image.
func backend() kube.Service {
	return kube.Service{Namespace: kube.LonghornNamespace, Name: "longhorn-backend", Port: 9500}
}

// upload brings the content into an image that is not ready.
func (i *Images) upload(ctx context.Context, c *creation, events *flow.Events) error {
	now, err := i.Get(ctx, c.req.Ref())
	if err != nil {
		return err
	}
	if now.Status.Ready {
		return nil
	}
	return sender{i, c, events}.send(ctx)
}

// sender uploads the content of one image.
type sender struct {
	i      *Images
	c      *creation
	events *flow.Events
}

// send brings the content into the image, from wherever that stands. An upload that
// was cut off cannot be gone on with: the image is made anew. One that somebody else
// has begun is waited for: Longhorn never comes to the end of the deletion of an image
// whose content arrives meanwhile.
func (s sender) send(ctx context.Context) error {
	var refused error // the answer to the last upload
	for uploads, gone := 0, 0; ; {
		source, err := s.awaitSource(ctx, refused != nil)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound && gone < uploadAttempts {
			gone++ // another run makes it anew
			continue
		}
		if err != nil {
			return err
		}
		switch source.Status.CurrentState {
		case longhornv1.BackingImageStateReady, longhornv1.BackingImageStateReadyForTransfer:
			return nil
		case longhornv1.BackingImageStateFailed, longhornv1.BackingImageStateFailedAndCleanUp:
			why := cmp.Or(source.Status.Message, "it was cut off")
			if refused != nil {
				why = refused.Error()
			}
			if uploads == uploadAttempts {
				return s.uploadFailed(why)
			}
			refused = nil
			s.events.Step(stepUpload, vmbackup.StateRunning, "the upload has failed ("+kube.Brief(why)+"); making the image anew")
			if err := s.anew(ctx, source); err != nil {
				return err
			}
		default:
			if uploads == uploadAttempts {
				return s.uploadFailed(refused.Error())
			}
			uploads++
			if refused = s.post(ctx, source.Name); refused == nil || ctx.Err() != nil || !isAnswer(refused) {
				return refused
			}
		}
	}
}

func (s sender) uploadFailed(why string) error {
	view := vmbackup.NewImage(s.c.req.Ref())
	view.Spec.Source.Type = vmbackup.ImageUpload
	return failure(view, why)
}

// isAnswer reports whether Longhorn has refused the content, or lost it: the image is
// made anew then. The API server's own refusals are none.
func isAnswer(err error) bool {
	var said *kube.ServiceError
	return errors.As(err, &said) && said.Code == http.StatusInternalServerError
}

// source is the name of Longhorn's backing image, and so of its source.
func (s sender) source(ctx context.Context) (string, error) {
	if !s.c.byHarvester {
		return s.c.backing, nil
	}
	vmi, err := s.i.clients.Harvester.Images(s.c.req.Namespace).Get(ctx, s.c.req.Name, metav1.GetOptions{})
	if err != nil {
		return "", kube.Error(err, "read", "VirtualMachineImage "+s.c.req.Ref().String())
	}
	return "vmi-" + string(vmi.UID), nil
}

// awaitSource waits until Longhorn takes the content, has it, or has given it up. What
// another run uploads is waited for. After an upload that was refused Longhorn has a
// moment to say what it has instead.
func (s sender) awaitSource(ctx context.Context, refused bool) (*longhornv1.BackingImageDataSource, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	lag := time.AfterFunc(stateLags, cancel)
	defer lag.Stop()
	if !refused {
		lag.Stop()
	}
	name, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	var source *longhornv1.BackingImageDataSource
	told := false
	sources := s.i.clients.Longhorn.LonghornV1beta2().BackingImageDataSources(kube.LonghornNamespace)
	err = kube.WaitFor(waiting, kube.One(sources, name), "Longhorn to take the content of image "+s.c.req.Ref().String(), func(o *longhornv1.BackingImageDataSource) (bool, error) {
		source = o
		switch o.Status.CurrentState {
		case longhornv1.BackingImageStatePending:
			return !refused && o.DeletionTimestamp == nil, nil
		case longhornv1.BackingImageStateReady, longhornv1.BackingImageStateReadyForTransfer,
			longhornv1.BackingImageStateFailed, longhornv1.BackingImageStateFailedAndCleanUp:
			return o.DeletionTimestamp == nil, nil
		case longhornv1.BackingImageStateInProgress:
			lag.Stop()
			if !told {
				told = true
				s.events.Step(stepUpload, vmbackup.StateRunning, "somebody uploads the content already; waiting for the end of that")
			}
		}
		return false, nil
	})
	if waiting.Err() != nil && ctx.Err() == nil && source != nil {
		return source, nil // it says nothing else
	}
	return source, err
}

// anew removes the image, in which nothing is, and makes it once more.
func (s sender) anew(ctx context.Context, source *longhornv1.BackingImageDataSource) error {
	if s.c.byHarvester {
		now, err := s.source(ctx)
		if err == nil && now == source.Name {
			err = s.i.removeVMImage(ctx, s.c.req.Ref())
		}
		if err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return err
		}
		return s.i.ensureVMImage(ctx, s.c)
	}
	sources := s.i.clients.Longhorn.LonghornV1beta2().BackingImageDataSources(kube.LonghornNamespace)
	now, err := sources.Get(ctx, source.Name, metav1.GetOptions{})
	switch {
	case err == nil && now.UID != source.UID:
		return nil // another run has made it anew
	case err != nil && !apierrors.IsNotFound(err):
		return kube.Error(err, "read", "Longhorn BackingImageDataSource "+source.Name)
	}
	if err := s.i.removeBacking(ctx, s.c.backing); err != nil {
		return err
	}
	return s.i.ensureBacking(ctx, s.c)
}

// post sends the content, as a browser would send a form, while it is read.
func (s sender) post(ctx context.Context, name string) error {
	content, err := s.c.req.Content.Open()
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	if _, err := form.CreateFormFile(formField, cmp.Or(s.c.req.Source.File, s.c.req.Name)); err != nil {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "form of the upload: %w", err)
	}
	begin := head.Len()
	if err := form.Close(); err != nil {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "form of the upload: %w", err)
	}
	whole, size := head.Bytes(), s.c.req.Content.SizeBytes()
	sent := &counted{Reader: content, told: s.progress(size)}
	body := io.MultiReader(bytes.NewReader(whole[:begin]), sent, bytes.NewReader(whole[begin:]))
	query := map[string]string{"action": "upload", "size": strconv.FormatInt(size, 10)}
	err = s.i.clients.Services.Post(ctx, backend(), []string{"v1", "backingimages", name}, query, form.FormDataContentType(), body)
	if err != nil {
		if failed := sent.failed(); failed != nil {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "read the image's file: %w", failed).
				WithHint("mend that, and run the same command again, which makes the image anew")
		}
		return s.refusedBy(ctx, err)
	}
	s.tellSent(size, size)
	return nil
}

// refusedBy says what became of an upload that did not end well.
func (s sender) refusedBy(ctx context.Context, err error) error {
	var said *kube.ServiceError
	const again = "run the same command again, which makes the image anew"
	switch {
	case ctx.Err() != nil, isAnswer(err):
		return err
	case errors.As(err, &said) && apierrors.IsForbidden(err):
		return kube.Error(err, "upload to", backend().String())
	case errors.As(err, &said):
		return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "Longhorn does not take the content of image %s: %s", s.c.req.Ref(), said.Message).
			WithHint("look at %s with: kubectl get endpointslices -n %s; then %s", backend(), backend().Namespace, again)
	}
	return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "the upload of image %s was cut off: %w", s.c.req.Ref(), err).WithHint("%s", again)
}

// progress tells now and then how much is sent.
func (s sender) progress(size int64) func(done int64) {
	var last time.Time
	return func(done int64) {
		if now := time.Now(); now.Sub(last) >= tellEvery {
			last = now
			s.tellSent(done, size)
		}
	}
}

func (s sender) tellSent(done, size int64) {
	state, percent := vmbackup.StateRunning, int(done*100/size)
	if done == size {
		state = vmbackup.StateReady
	}
	s.events.Volume(stepUpload, cmp.Or(s.c.req.Source.File, s.c.req.Name), state, percent, done, size, fmt.Sprintf("to %s", backend().Name))
}

// counted counts what is read, and keeps the error that reading ended with: the
// transport, which reads it, tells its own.
type counted struct {
	io.Reader
	told func(done int64)

	mu   sync.Mutex
	done int64
	err  error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.mu.Lock()
	c.done += int64(n)
	done := c.done
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	c.mu.Unlock()
	if n > 0 {
		c.told(done)
	}
	return n, err
}

func (c *counted) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
