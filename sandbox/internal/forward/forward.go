// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package forward carries TCP connections between network namespaces: a unix
// socket at a path is reachable from all of them, so one side turns TCP into
// it and the other side turns it back.
package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Dialer opens the far side of a connection.
type Dialer func(ctx context.Context) (net.Conn, error)

// Serve accepts connections until ctx ends and carries each to what dial
// opens. A connection whose far side cannot be opened is closed at once, which
// its client sees as a server that hangs up. Serve closes the listener.
func Serve(ctx context.Context, listener net.Listener, dial Dialer) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	for {
		near, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		group.Go(func() {
			defer near.Close()
			far, err := dial(ctx)
			if err != nil {
				return
			}
			defer far.Close()
			join(ctx, near, far)
		})
	}
}

// join copies both ways until both directions are done, passing half-closes on.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		_ = a.Close()
		_ = b.Close()
	})
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { pipe(a, b) })
	group.Go(func() { pipe(b, a) })
	group.Wait()
}

func pipe(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	// A broken direction breaks the other one too.
	_ = dst.Close()
	_ = src.Close()
}
