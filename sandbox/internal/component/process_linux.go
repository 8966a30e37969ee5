// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a running program in a process group of its own.
type process struct {
	pid   int
	ended chan struct{} // closed when the program ended
	err   error         // how; valid then
}

// startProcess starts the program of c with its output appended to logFile.
// The program is killed when this process dies.
func startProcess(c Component, env []string, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(append([]string{}, env...), c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The parent-death signal is sent when the starting thread ends, so
		// the thread is held for as long as the program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = fmt.Errorf("%s ended with exit code 0", c.Path)
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// stop asks the program to end and kills its whole group after grace.
func (p *process) stop(grace time.Duration) {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
	}
	// Children that it left behind would hold its ports.
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
}
