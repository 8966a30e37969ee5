// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package procid

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestIdentity(t *testing.T) {
	own, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !own.Alive() {
		t.Error("this process is not alive")
	}
	later := Identity{PID: own.PID, Started: own.Started + 1}
	if later.Alive() {
		t.Error("a later process with the same number was taken for it")
	}
	if err := later.Wait(); err != nil {
		t.Errorf("wait for a process that is gone: %v", err)
	}
}

func TestWaitEndsWithTheProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- id.Wait() }()
	select {
	case err := <-waited:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if id.Alive() {
		t.Error("alive after its end")
	}
}
