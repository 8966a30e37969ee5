// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// Handler serves a supervisor's control interface:
// GET /status is one JSON array of Status; with ?watch=1 an endless stream of
// them, one at every change; POST /components/<name>/<stop|start|restart>.
func (s *Supervisor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.HandleFunc("POST /components/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		actions := map[string]func(context.Context, string) error{
			"stop": s.Stop, "start": s.Start, "restart": s.Restart,
		}
		action, ok := actions[r.PathValue("action")]
		if !ok {
			http.Error(w, "unknown action "+r.PathValue("action"), http.StatusNotFound)
			return
		}
		switch err := action(r.Context(), r.PathValue("name")); {
		case errors.Is(err, ErrUnknown):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	return mux
}

func (s *Supervisor) serveStatus(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	for {
		statuses, changed := s.Snapshot()
		if err := encoder.Encode(statuses); err != nil {
			return
		}
		if r.URL.Query().Get("watch") == "" {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// Client talks to a supervisor through its unix socket.
type Client struct{ http *http.Client }

// NewClient connects at each call; the socket need not exist yet.
func NewClient(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsocket.Dial(ctx, socket)
		},
		DisableKeepAlives: true,
	}}}
}

// Status asks once.
func (c *Client) Status(ctx context.Context) ([]Status, error) {
	var statuses []Status
	err := c.read(ctx, "/status", func(s []Status) bool {
		statuses = s
		return false
	})
	return statuses, err
}

// Watch calls seen at every change until it returns false or ctx ends.
func (c *Client) Watch(ctx context.Context, seen func([]Status) bool) error {
	return c.read(ctx, "/status?watch=1", seen)
}

// Do asks for an action (stop, start, restart) and returns when it is done.
// ErrUnknown is returned for a component that this supervisor does not run.
func (c *Client) Do(ctx context.Context, name, action string) error {
	target := "http://sandbox/components/" + url.PathEscape(name) + "/" + url.PathEscape(action)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch resp.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrUnknown, name)
	default:
		return errors.New(strings.TrimSpace(string(body)))
	}
}

func (c *Client) read(ctx context.Context, path string, seen func([]Status) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sandbox"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var statuses []Status
		if err := decoder.Decode(&statuses); err != nil {
			return err
		}
		if !seen(statuses) {
			return nil
		}
	}
}
