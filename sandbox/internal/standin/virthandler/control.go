// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/longhorndisk"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// WriteRequest asks a guest to write bytes that follow from a seed to one of its disks.
type WriteRequest struct {
	// Disk is the name of the VMI's disk.
	Disk string `json:"disk"`
	// Seed gives the bytes; the same seed gives the same bytes.
	Seed string `json:"seed"`
	// Offset and Size are in bytes.
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
	// Wait blocks until a frozen guest is thawed; otherwise it refuses.
	Wait bool `json:"wait"`
}

// PowerOff and Crash are what a guest can do to itself.
const (
	PowerOff = "poweroff"
	Crash    = "crash"
)

func controlSocket(env *component.Env) string { return env.Path("run", "guests.sock") }

// serveControl is the door for the sandbox's own commands: what happens in the guest.
func (h *Handler) serveControl(ctx context.Context) error {
	listener, err := unixsocket.Listen(controlSocket(h.env))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /guests/{namespace}/{name}/write", func(w http.ResponseWriter, r *http.Request) {
		answer(w, h.write(r))
	})
	mux.HandleFunc("POST /guests/{namespace}/{name}/power/{action}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, h.power(r))
	})
	return serveUntil(ctx, listener, mux)
}

func answer(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, guest.ErrFrozen):
		http.Error(w, err.Error(), http.StatusLocked)
	default:
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

func (h *Handler) write(r *http.Request) error {
	request := WriteRequest{}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&request); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
	vmi, g, _, err := h.find(r)
	if err != nil {
		return err
	}
	claim, err := volumeClaim(vmi, request.Disk)
	if err != nil {
		return err
	}
	volume, err := h.disks.Volume(r.Context(), claim.Namespace, claim.Name)
	if err != nil {
		return err
	}
	return g.Write(r.Context(), request.Wait, func(ctx context.Context) error {
		return h.disks.WriteAttached(ctx, volume, longhorndisk.Random(request.Seed), request.Offset, request.Size)
	})
}

func (h *Handler) power(r *http.Request) error {
	vmi, _, _, err := h.find(r)
	if err != nil {
		return err
	}
	phase := virtv1.Succeeded
	switch action := r.PathValue("action"); action {
	case PowerOff:
	case Crash:
		phase = virtv1.Failed
	default:
		return fmt.Errorf("unknown action %q", action)
	}
	h.mu.Lock()
	h.ended[string(vmi.UID)] = phase
	h.mu.Unlock()
	h.queue.Add(vmi.Namespace + "/" + vmi.Name)
	return nil
}

// powerState says whether the guest turned itself off, and how.
func (h *Handler) powerState(vmi *virtv1.VirtualMachineInstance) (phase virtv1.VirtualMachineInstancePhase, ended bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	phase, ended = h.ended[string(vmi.UID)]
	return phase, ended
}

func (h *Handler) forgetPowerState(uid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ended, uid)
}

// Client asks the guests of an instance, from inside or outside of it.
type Client struct{ http *http.Client }

// NewClient connects at each call.
func NewClient(env *component.Env) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsocket.Dial(ctx, controlSocket(env))
		},
		DisableKeepAlives: true,
	}}}
}

// Write makes a guest write; guest.ErrFrozen is returned when it is frozen and the request does not wait.
func (c *Client) Write(ctx context.Context, namespace, vm string, request WriteRequest) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return c.post(ctx, body, namespace, vm, "write")
}

// Power makes a guest turn itself off: PowerOff or Crash.
func (c *Client) Power(ctx context.Context, namespace, vm, action string) error {
	return c.post(ctx, nil, namespace, vm, "power", action)
}

func (c *Client) post(ctx context.Context, body []byte, elem ...string) error {
	for i := range elem {
		elem[i] = url.PathEscape(elem[i])
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox/guests/"+strings.Join(elem, "/"), bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch resp.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusLocked:
		return fmt.Errorf("%s/%s: %w", elem[0], elem[1], guest.ErrFrozen)
	default:
		return errors.New(strings.TrimSpace(string(text)))
	}
}
