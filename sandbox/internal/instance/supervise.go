// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/cluster"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/forward"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// Supervise runs the components inside the instance's namespaces until ctx ends.
func Supervise(ctx context.Context, dir string) error {
	i := &Instance{Name: filepath.Base(dir), Dir: dir}
	env, err := i.Env()
	if err != nil {
		return err
	}
	set, err := cluster.Components(env)
	if err != nil {
		return err
	}
	// What a pod would find in its environment about the API server.
	environment := append(BaseEnvironment(dir),
		"KUBERNETES_SERVICE_HOST="+component.APIServerHost,
		fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", component.APIServerPort),
		"NODE_NAME="+component.NodeName,
	)
	supervisor, err := component.NewSupervisor(i.path("logs"), environment, set)
	if err != nil {
		return err
	}
	apiListener, err := unixsocket.Listen(i.path("run", apiSocket))
	if err != nil {
		return err
	}
	s3Listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", env.S3Port))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	serve := func(what string, work func() error) {
		group.Go(func() {
			if err := work(); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	serve("forward from the host to kube-apiserver", func() error {
		return forward.Serve(ctx, apiListener, dialTCP(component.APIServerPort))
	})
	serve("forward to the S3 server", func() error {
		return forward.Serve(ctx, s3Listener, func(ctx context.Context) (net.Conn, error) {
			return unixsocket.Dial(ctx, i.path("run", s3Socket))
		})
	})
	serve("control interface", func() error {
		return serveControl(ctx, i.path("run", innerControl), supervisor)
	})
	supervisor.Run(ctx)
	group.Wait()
	return context.Cause(ctx)
}

// serveControl offers a supervisor's control interface until ctx ends.
func serveControl(ctx context.Context, socket string, supervisor *component.Supervisor) error {
	listener, err := unixsocket.Listen(socket)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:     supervisor.Handler(),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
