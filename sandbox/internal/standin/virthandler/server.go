// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

// serve answers virt-api over TLS until ctx ends. Only virt-api's client
// certificate is let in, as by the real handler.
func (h *Handler) serve(ctx context.Context) error {
	ca, err := h.env.Authority()
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	certificate, err := tls.LoadX509KeyPair(h.env.Path("pki", "virt-handler.crt"), h.env.Path("pki", "virt-handler.key"))
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(Port)), &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{certificate},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			if name := state.PeerCertificates[0].Subject.CommonName; name != ClientName {
				return fmt.Errorf("common name is invalid, got %s", name)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	return serveUntil(ctx, listener, h.routes())
}

// serveUntil serves until ctx ends. Requests in flight lose their context then.
func serveUntil(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// routes are the endpoints of virt-handler that virt-api calls.
func (h *Handler) routes() http.Handler {
	mux := http.NewServeMux()
	put := func(action string, do func(r *http.Request, vmi *virtv1.VirtualMachineInstance, g *guest.Guest) (status int, err error)) {
		mux.HandleFunc("PUT /v1/namespaces/{namespace}/virtualmachineinstances/{name}/"+action, func(w http.ResponseWriter, r *http.Request) {
			vmi, g, status, err := h.find(r)
			if err == nil {
				status, err = do(r, vmi, g)
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s %s/%s: %v\n", action, r.PathValue("namespace"), r.PathValue("name"), err)
				http.Error(w, err.Error(), status)
				return
			}
			w.WriteHeader(http.StatusAccepted)
		})
	}
	put("freeze", h.freeze)
	put("unfreeze", func(_ *http.Request, vmi *virtv1.VirtualMachineInstance, g *guest.Guest) (int, error) {
		return http.StatusBadRequest, guest.Agent{Guest: g, Faults: vmi.Annotations}.Thaw()
	})
	put("pause", func(_ *http.Request, _ *virtv1.VirtualMachineInstance, g *guest.Guest) (int, error) {
		return http.StatusInternalServerError, g.SetPaused(true)
	})
	put("unpause", func(_ *http.Request, _ *virtv1.VirtualMachineInstance, g *guest.Guest) (int, error) {
		return http.StatusInternalServerError, g.SetPaused(false)
	})
	reboot := func(reason, message string) func(*http.Request, *virtv1.VirtualMachineInstance, *guest.Guest) (int, error) {
		return func(_ *http.Request, vmi *virtv1.VirtualMachineInstance, g *guest.Guest) (int, error) {
			if err := g.Reboot(); err != nil {
				return http.StatusInternalServerError, err
			}
			h.recorder.Event(vmi, corev1.EventTypeNormal, reason, message)
			return 0, nil
		}
	}
	put("softreboot", reboot("SoftRebooted", "VirtualMachineInstance soft rebooted"))
	put("reset", reboot("Reset", "VirtualMachineInstance reset"))
	get := func(what string, answer func(*virtv1.VirtualMachineInstance, *guest.Guest) any) {
		mux.HandleFunc("GET /v1/namespaces/{namespace}/virtualmachineinstances/{name}/"+what, func(w http.ResponseWriter, r *http.Request) {
			vmi, g, status, err := h.find(r)
			if err != nil {
				http.Error(w, err.Error(), status)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(answer(vmi, g)); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
			}
		})
	}
	get("guestosinfo", agentInfo)
	get("userlist", func(*virtv1.VirtualMachineInstance, *guest.Guest) any {
		return virtv1.VirtualMachineInstanceGuestOSUserList{Items: []virtv1.VirtualMachineInstanceGuestOSUser{}}
	})
	get("filesystemlist", func(vmi *virtv1.VirtualMachineInstance, _ *guest.Guest) any {
		return virtv1.VirtualMachineInstanceFileSystemList{Items: filesystems(vmi)}
	})
	return mux
}

// find returns the VMI of a request and its running guest, or an HTTP status.
func (h *Handler) find(r *http.Request) (*virtv1.VirtualMachineInstance, *guest.Guest, int, error) {
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	_, vmi, err := h.lookup(key)
	if err != nil {
		return nil, nil, http.StatusInternalServerError, err
	}
	if vmi == nil {
		return nil, nil, http.StatusNotFound, fmt.Errorf("VMI %s does not exist", key)
	}
	g := h.guest(key)
	if g == nil || g.Key().UID != string(vmi.UID) {
		return nil, nil, http.StatusInternalServerError, fmt.Errorf("no guest of VMI %s runs", key)
	}
	return vmi, g, 0, nil
}

func (h *Handler) freeze(r *http.Request, vmi *virtv1.VirtualMachineInstance, g *guest.Guest) (int, error) {
	options := virtv1.FreezeUnfreezeTimeout{}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&options); err != nil && !errors.Is(err, io.EOF) {
		return http.StatusBadRequest, errors.New("failed to unmarshal unfreeze timeout")
	}
	if options.UnfreezeTimeout == nil {
		return http.StatusBadRequest, errors.New("Unfreeze timeout in freeze request is not set") // KubeVirt's wording
	}
	// The launcher takes whole seconds.
	timeout := time.Duration(int32(options.UnfreezeTimeout.Seconds())) * time.Second
	agent := guest.Agent{Guest: g, Faults: vmi.Annotations}
	if err := agent.Freeze(r.Context(), timeout); err != nil {
		h.recorder.Eventf(vmi, corev1.EventTypeWarning, "FreezeError", "Failed to freeze VMI: %s", err)
		return http.StatusBadRequest, err
	}
	return 0, nil
}

// agentInfo is what the guest agent tells about itself and the guest.
func agentInfo(vmi *virtv1.VirtualMachineInstance, g *guest.Guest) any {
	info := virtv1.VirtualMachineInstanceGuestAgentInfo{
		GAVersion: "0.0.0-stand-in",
		Hostname:  vmi.Name,
		OS:        osInfo(),
		Timezone:  "UTC, 0",
		FSInfo:    virtv1.VirtualMachineInstanceFileSystemInfo{Filesystems: filesystems(vmi)},
	}
	if vmi.Spec.Hostname != "" {
		info.Hostname = vmi.Spec.Hostname
	}
	if g.Frozen() != nil {
		info.FSFreezeStatus = frozen
	}
	for _, command := range []string{"guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status", "guest-get-fsinfo", "guest-get-osinfo"} {
		info.SupportedCommands = append(info.SupportedCommands, virtv1.GuestAgentCommandInfo{Name: command, Enabled: true})
	}
	return info
}

// filesystems lists one file system for every disk on a PVC: the first is the root.
func filesystems(vmi *virtv1.VirtualMachineInstance) []virtv1.VirtualMachineInstanceFileSystem {
	list := []virtv1.VirtualMachineInstanceFileSystem{}
	for _, status := range vmi.Status.VolumeStatus {
		if status.PersistentVolumeClaimInfo == nil || status.Target == "" {
			continue
		}
		mount := "/"
		if len(list) > 0 {
			mount = "/mnt/" + status.Name
		}
		capacity := status.PersistentVolumeClaimInfo.Capacity[corev1.ResourceStorage]
		list = append(list, virtv1.VirtualMachineInstanceFileSystem{
			DiskName: status.Target, MountPoint: mount, FileSystemType: "none", TotalBytes: int(capacity.Value()),
		})
	}
	return list
}
