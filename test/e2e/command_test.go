// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// commandDeadline is how long any command of a test may take.
const commandDeadline = 8 * time.Minute

// result is how a command ended.
type result struct {
	args           []string
	code           int
	stdout, stderr string
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d after %.1f s\nstdout: %s\nstderr: %s",
		strings.Join(r.args, " "), r.code, r.took.Seconds(), r.stdout, r.stderr)
}

// exec runs a program to its end. extra is added to its environment.
func (s *suite) exec(ctx context.Context, t *testing.T, path string, extra []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, commandDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = s.repository, append(os.Environ(), extra...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	got := result{args: args, stdout: stdout.String(), stderr: stderr.String(), took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", path, err)
	}
	if ctx.Err() != nil {
		s.tellStuck(t)
		t.Fatalf("not done in %s: %s", commandDeadline, got)
	}
	return got
}

// runSandbox runs a command of the sandbox, which must succeed, and returns its output.
func (s *suite) runSandbox(t *testing.T, args ...string) string {
	t.Helper()
	got := s.exec(t.Context(), t, s.sandbox, nil, append([]string{"--name", s.instance}, args...)...)
	if got.code != 0 {
		t.Fatalf("sandbox %s", got)
	}
	return got.stdout
}

// run runs the plugin.
func (s *suite) run(t *testing.T, args ...string) result {
	t.Helper()
	return s.exec(t.Context(), t, s.plugin, []string{"KUBECONFIG=" + s.kubeconfig}, args...)
}

// want runs the plugin, which must end with the exit code.
func (s *suite) want(t *testing.T, code int, args ...string) result {
	t.Helper()
	got := s.run(t, args...)
	if got.code != code {
		t.Fatalf("want exit code %d: %s", code, got)
	}
	return got
}

// refused runs the plugin, which must refuse before any change (exit code 4) and say each of the words.
func (s *suite) refused(t *testing.T, words []string, args ...string) {
	t.Helper()
	got := s.run(t, args...)
	if got.code != 4 {
		t.Errorf("want exit code 4: %s", got)
	}
	for _, word := range append(words, "error:") {
		if !strings.Contains(got.stderr, word) {
			t.Errorf("does not say %q: %s", word, got)
		}
	}
	if got.stdout != "" {
		t.Errorf("a refusal is no result: %s", got)
	}
}

// backup runs a command that prints one backup, which must end with the exit code.
func (s *suite) backup(t *testing.T, code int, args ...string) *vmbackup.Backup {
	t.Helper()
	got := s.want(t, code, append(args, "-o", "json")...)
	b := &vmbackup.Backup{}
	decode(t, got, b)
	if b.Kind != vmbackup.KindBackup || b.APIVersion != vmbackup.APIVersion {
		t.Fatalf("no backup: %s", got)
	}
	return b
}

// restore runs a command that prints one restore, which must end with the exit code.
func (s *suite) restore(t *testing.T, code int, args ...string) *vmbackup.Restore {
	t.Helper()
	got := s.want(t, code, append(args, "-o", "json")...)
	r := &vmbackup.Restore{}
	decode(t, got, r)
	if r.Kind != vmbackup.KindRestore || r.APIVersion != vmbackup.APIVersion {
		t.Fatalf("no restore: %s", got)
	}
	return r
}

func decode(t *testing.T, got result, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(got.stdout), into); err != nil {
		t.Fatalf("%v in the output of %s", err, got)
	}
}

// process is the plugin while it runs, with its events.
type process struct {
	cmd    *exec.Cmd
	args   []string
	events chan vmbackup.Event
	stdout bytes.Buffer
	mu     sync.Mutex
	stderr bytes.Buffer
	read   sync.WaitGroup
	began  time.Time
}

// start starts the plugin with its events as JSON.
func (s *suite) start(t *testing.T, args ...string) *process {
	t.Helper()
	args = append(args, "--progress", "json")
	p := &process{cmd: exec.CommandContext(t.Context(), s.plugin, args...), args: args, events: make(chan vmbackup.Event, 4096), began: time.Now()}
	p.cmd.Dir, p.cmd.Env = s.repository, append(os.Environ(), "KUBECONFIG="+s.kubeconfig)
	p.cmd.Stdout = &p.stdout
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.read.Go(func() { p.readEvents(stderr) })
	return p
}

func (p *process) readEvents(stderr io.Reader) {
	defer close(p.events)
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.stderr.Write(append(lines.Bytes(), '\n'))
		p.mu.Unlock()
		var e vmbackup.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Type != "" {
			p.events <- e
		}
	}
}

func (p *process) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// until waits for an event.
func (p *process) until(t *testing.T, what string, is func(vmbackup.Event) bool) {
	t.Helper()
	deadline := time.NewTimer(commandDeadline)
	defer deadline.Stop()
	for {
		select {
		case e, open := <-p.events:
			if !open {
				t.Fatalf("%s ended before %s: %s", strings.Join(p.args, " "), what, p.told())
			}
			if is(e) {
				return
			}
		case <-deadline.C:
			t.Fatalf("%s: no %s in %s: %s", strings.Join(p.args, " "), what, commandDeadline, p.told())
		}
	}
}

// atStep is an event of a step that runs.
func atStep(id string) func(vmbackup.Event) bool {
	return func(e vmbackup.Event) bool { return e.Step == id && e.State == vmbackup.StateRunning }
}

// end sends a signal and waits for the process to end.
func (p *process) end(t *testing.T, signal os.Signal) result {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(p.args, " "), err, p.told())
	}
	return p.wait(t)
}

// wait waits for the process to end; the code is -1 when a signal ended it.
func (p *process) wait(t *testing.T) result {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		p.read.Wait() // Wait closes the pipe: everything is read first
		done <- p.cmd.Wait()
	}()
	deadline := time.NewTimer(commandDeadline)
	defer deadline.Stop()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-deadline.C:
		t.Fatalf("%s: not done in %s: %s", strings.Join(p.args, " "), commandDeadline, p.told())
	}
	return result{args: p.args, code: p.cmd.ProcessState.ExitCode(), stdout: p.stdout.String(), stderr: p.told(), took: time.Since(p.began)}
}

// goOn is the command to go on with that an interrupted command has printed, as the plugin's arguments.
func goOn(t *testing.T, got result) []string {
	t.Helper()
	for line := range strings.Lines(got.stderr) {
		_, command, found := strings.Cut(strings.TrimSpace(line), "go on with: kubectl vmbackup ")
		if found {
			return strings.Fields(command)
		}
	}
	t.Fatalf("names no command to go on with: %s", got)
	return nil
}
