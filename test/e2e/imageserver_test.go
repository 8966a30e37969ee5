// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// imageHost is the sandbox's address that Longhorn does not take for loopback.
const imageHost = "10.200.0.1"

var serveImages = flag.String("serve-images", "", "directory to serve inside of a sandbox, for the test of images")

// TestImageServer is no test: it is this program as a web server inside of the
// sandbox's network, which the tests start. It tells its URL, lets what is below
// /gate/ through once a line is typed, and ends with its input.
func TestImageServer(t *testing.T) {
	if *serveImages == "" {
		t.Skip("started by the test of images")
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", imageHost+":0")
	if err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(*serveImages)))
	mux.HandleFunc("/gate/", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(filepath.Join(*serveImages, filepath.Base(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		if r.Method == http.MethodHead {
			return
		}
		half := len(content) / 2
		_, _ = w.Write(content[:half])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
		_, _ = w.Write(content[half:])
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	if _, err := fmt.Fprintf(os.Stdout, "http://%s\n", listener.Addr()); err != nil { //nolint:forbidigo // this is a process of its own
		t.Fatal(err)
	}
	in := bufio.NewReader(os.Stdin) //nolint:forbidigo // this is a process of its own
	if _, err := in.ReadString('\n'); err == nil {
		close(gate)
		_, _ = io.Copy(io.Discard, in)
	}
	_ = server.Close()
}

// sharedDirectory is a directory that the sandbox sees: it has a /tmp of its own.
func (s *suite) sharedDirectory(t *testing.T) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.repository, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	directory, err := os.MkdirTemp(filepath.Join(s.repository, "bin"), "e2e-images-") //nolint:usetesting // not below /tmp
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	return directory
}

// copySelf writes this program to a path.
func copySelf(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// imageServer serves the files of a directory to the sandbox until the test ends.
type imageServer struct {
	url  string
	open func()
}

func (s *suite) serveImages(t *testing.T, directory string) *imageServer {
	t.Helper()
	self := filepath.Join(directory, "server")
	copySelf(t, self)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), s.sandbox, "exec", s.instance, "--", self, "-test.run", "^TestImageServer$", "-test.timeout", "30m", "-serve-images", directory)
	cmd.Dir = s.repository
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("the web server in the sandbox says %q: %v", line, err)
	}
	var once sync.Once
	return &imageServer{url: strings.TrimSpace(line), open: func() {
		once.Do(func() { _, _ = io.WriteString(stdin, "open\n") })
	}}
}
