// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/procid"
)

// hostIP is the node's address, and that of nearly every pod that runs no process.
const hostIP = "127.0.0.1"

// addressOf is the address of a pod that runs no process here. longhorn-manager, whose
// pod is such a one, listens where kube-apiserver can proxy to: it refuses loopback.
func addressOf(pod *corev1.Pod) string {
	if pod.Namespace == "longhorn-system" && pod.Labels["app"] == "longhorn-manager" {
		return component.RoutableIP
	}
	return hostIP
}

// needsProcess says whether a pod is one of Longhorn's instance pods, whose programs run for real.
func needsProcess(pod *corev1.Pod) bool {
	if pod.Namespace != "longhorn-system" {
		return false
	}
	switch pod.Labels["longhorn.io/component"] {
	case "instance-manager", "backing-image-manager", "backing-image-data-source":
		return true
	}
	return false
}

// podRunner runs the first container of pods as processes. They outlive the
// stand-in, as containers outlive a kubelet: the next one takes them over.
type podRunner struct {
	env     *component.Env
	changed func(key string)

	mu        sync.Mutex
	processes map[string]*podProcess
	nextIP    byte
}

// podProcess is the process of one pod.
type podProcess struct {
	podRecord
	done chan struct{} // closed when it ended
	err  error         // valid after done
}

// podRecord is what the next stand-in must know of a process, in run/pods/<pod UID>.json.
type podRecord struct {
	Key     string          `json:"key"` // namespace/name of the pod
	UID     types.UID       `json:"uid"`
	IP      string          `json:"ip"`
	Address string          `json:"address"` // where it serves, host:port
	Process procid.Identity `json:"process"`
}

// errAdopted is how a process ended that another stand-in had started.
var errAdopted = errors.New("ended")

// newPodRunner takes over the processes that an earlier stand-in left.
func newPodRunner(env *component.Env, changed func(string)) (*podRunner, error) {
	r := &podRunner{env: env, changed: changed, processes: map[string]*podProcess{}, nextIP: 1}
	if err := os.MkdirAll(r.env.Path("run", "pods"), 0o700); err != nil {
		return nil, err
	}
	records, err := filepath.Glob(r.recordPath("*"))
	if err != nil {
		return nil, err
	}
	for _, path := range records {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		p := &podProcess{done: make(chan struct{}), err: errAdopted}
		if err := json.Unmarshal(data, &p.podRecord); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if ip := net.ParseIP(p.IP).To4(); ip != nil && p.IP != hostIP {
			r.nextIP = max(r.nextIP, ip[3])
		}
		r.processes[p.Key] = p
		go func() {
			if err := p.Process.Wait(); err != nil {
				fmt.Fprintf(os.Stderr, "pod %s: wait for its process: %v\n", p.Key, err)
			}
			close(p.done)
			r.changed(p.Key)
		}()
	}
	return r, nil
}

func (r *podRunner) recordPath(uid types.UID) string {
	return r.env.Path("run", "pods", string(uid)+".json")
}

func (r *podRunner) get(key string, uid types.UID) *podProcess {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.processes[key]; p != nil && p.UID == uid {
		return p
	}
	return nil
}

// start starts the pod's program in a process group of its own.
func (r *podRunner) start(key string, pod *corev1.Pod) (*podProcess, error) {
	container := pod.Spec.Containers[0]
	argv := append(append([]string{}, container.Command...), container.Args...)
	if len(argv) == 0 {
		return nil, fmt.Errorf("container %s has no command", container.Name)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	ip, address := r.listenAddress(argv)
	log, err := os.OpenFile(r.env.Path("logs", "pod-"+pod.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), containerEnv(pod, container, ip)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &podProcess{done: make(chan struct{})}
	p.podRecord, err = r.record(key, pod, ip, address, cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
		r.changed(key)
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.processes[key] = p
	return p, nil
}

// record writes down what the next stand-in must know.
func (r *podRunner) record(key string, pod *corev1.Pod, ip, address string, pid int) (podRecord, error) {
	id, err := procid.Of(pid)
	if err != nil {
		return podRecord{}, err
	}
	record := podRecord{Key: key, UID: pod.UID, IP: ip, Address: address, Process: id}
	data, err := json.Marshal(record)
	if err != nil {
		return podRecord{}, err
	}
	return record, os.WriteFile(r.recordPath(pod.UID), data, 0o600)
}

var wildcardAddress = regexp.MustCompile(`^:(\d+)$`)

// listenAddress gives a program its own loopback address where it would listen
// on all: two backing image programs use the same ports. The instance manager
// keeps the wildcard, as its replicas listen beside it.
func (r *podRunner) listenAddress(argv []string) (ip, address string) {
	ip = hostIP
	if !strings.HasSuffix(argv[0], "instance-manager") {
		r.mu.Lock()
		r.nextIP++
		ip = fmt.Sprintf("127.0.1.%d", r.nextIP)
		r.mu.Unlock()
	}
	for i, arg := range argv {
		m := wildcardAddress.FindStringSubmatch(arg)
		if m == nil {
			continue
		}
		if ip != hostIP {
			argv[i] = ip + arg
		}
		if address == "" {
			address = net.JoinHostPort(ip, m[1])
		}
	}
	return ip, address
}

// containerEnv resolves the kinds of variables that Longhorn's pods use.
func containerEnv(pod *corev1.Pod, container corev1.Container, ip string) []string {
	var env []string
	for _, v := range container.Env {
		value := v.Value
		if v.ValueFrom != nil && v.ValueFrom.FieldRef != nil {
			value = map[string]string{
				"status.podIP":       ip,
				"metadata.name":      pod.Name,
				"metadata.namespace": pod.Namespace,
				"spec.nodeName":      pod.Spec.NodeName,
			}[v.ValueFrom.FieldRef.FieldPath]
		}
		env = append(env, v.Name+"="+value)
	}
	return env
}

// stop ends the pod's process, if there is one, and returns when it is gone.
func (r *podRunner) stop(key string, grace time.Duration) {
	r.mu.Lock()
	p := r.processes[key]
	delete(r.processes, key)
	r.mu.Unlock()
	if p != nil {
		p.stop(grace)
		_ = os.Remove(r.recordPath(p.UID)) // what stays names a process that is gone
	}
}

func (p *podProcess) stop(grace time.Duration) {
	_ = syscall.Kill(p.Process.PID, syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = syscall.Kill(-p.Process.PID, syscall.SIGKILL)
		<-p.done
	}
}

// ended says whether the process is gone and how it went.
func (p *podProcess) ended() (bool, string) {
	select {
	case <-p.done:
		if p.err == nil {
			return true, "ended with exit code 0"
		}
		return true, p.err.Error()
	default:
		return false, ""
	}
}

// probe is the pod's readiness: it serves.
func (p *podProcess) probe(ctx context.Context) error {
	if p.Address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}
