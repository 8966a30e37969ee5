// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// chain is what an instance has: TCP, a unix socket, TCP. It returns the address in front.
func chain(t *testing.T, server string) string {
	t.Helper()
	// Longer than a socket's address may be.
	dir := t.TempDir()
	socket := filepath.Join(dir, strings.Repeat("x", 20)+".sock")
	middle, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	front := listen(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 2)
	go func() {
		done <- Serve(ctx, middle, func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server)
		})
	}()
	go func() {
		done <- Serve(ctx, front, func(ctx context.Context) (net.Conn, error) { return unixsocket.Dial(ctx, socket) })
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
	return front.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

func TestBytesGoThroughAndHalfClosesToo(t *testing.T) {
	server := listen(t)
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		// Answers only once the client has said all.
		all, err := io.ReadAll(conn)
		if err == nil {
			_, _ = conn.Write(bytes.ToUpper(all))
		}
	}()
	conn := dial(t, chain(t, server.Addr().String()))
	sent := bytes.Repeat([]byte("abc"), 1<<18)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.ToUpper(sent)) {
		t.Errorf("got %d bytes back, want %d", len(got), len(sent))
	}
}

func TestDeadServerHangsUp(t *testing.T) {
	server := listen(t)
	address := server.Addr().String()
	server.Close()
	conn := dial(t, chain(t, address))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the connection closed", err)
	}
}

func TestEndOfTheContextEndsConnections(t *testing.T) {
	server := listen(t)
	defer server.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := server.Accept(); err == nil {
			accepted <- conn
		}
	}()
	front := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, front, func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Addr().String())
		})
	}()
	conn := dial(t, front.Addr().String())
	defer (<-accepted).Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives the context")
	}
}
