// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// connect opens a target with the client's own connection, whatever Longhorn says of it.
func (t *Targets) connect(ctx context.Context, name string) (target.Store, error) {
	bt, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.connectTo(ctx, bt)
}

func (t *Targets) connectTo(ctx context.Context, bt *longhornv1.BackupTarget) (target.Store, error) {
	raw := bt.Spec.BackupTargetURL
	switch kind := target.Type(raw); kind {
	case "":
		if raw == "" {
			return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target %q of Longhorn has no URL", bt.Name).AsPreflight().
				WithHint("set it with: kubectl vmbackup target set %s URL", bt.Name)
		}
	case target.TypeNFS, target.TypeCIFS:
		return nil, t.unreachable(ctx, bt)
	case target.TypeAzure:
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "backup target %s (%s) is on Azure Blob Storage, which this client does not speak; nothing was tried", bt.Name, target.PlainURL(raw)).
			AsPreflight().WithHint("have Longhorn look at it with: kubectl vmbackup target sync %[1]s; what it lists is in: kubectl vmbackup target show %[1]s", bt.Name)
	}
	config := target.Config{URL: raw}
	if secret := bt.Spec.CredentialSecret; secret != "" {
		object, err := t.clients.Core.CoreV1().Secrets(kube.LonghornNamespace).Get(ctx, secret, metav1.GetOptions{})
		if err != nil {
			return nil, kube.Error(err, "read", fmt.Sprintf("Secret %s/%s with the credentials of backup target %s", kube.LonghornNamespace, secret, bt.Name))
		}
		config.Credentials = object.Data
	}
	return t.open(config)
}

// unreachable says what can be done about a network file system that Longhorn mounts
// in its own pods. There it can be looked at without an image that is not in the
// cluster already: Longhorn's own has a shell and zip.
func (t *Targets) unreachable(ctx context.Context, bt *longhornv1.BackupTarget) error {
	plain := target.PlainURL(bt.Spec.BackupTargetURL)
	inside := fmt.Sprintf("kubectl exec -n %s %s -c longhorn-manager -- sh -c", kube.LonghornNamespace, t.managerPod(ctx, bt))
	dir := mountDir(bt.Spec.BackupTargetURL)
	return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported,
		"backup target %s (%s) is a network file system that Longhorn mounts inside of the cluster; this machine cannot reach it by itself, and nothing was tried", bt.Name, plain).
		AsPreflight().WithHint(`mount it on this machine and give the mount point: --url file:///MOUNTPOINT
or try it where Longhorn has mounted it: %[1]s 'cd %[2]s && mkdir -p vmbackup/.check && echo ok > vmbackup/.check/probe && cat vmbackup/.check/probe && rm vmbackup/.check/probe && ls'
or fetch all but the blocks, and read the copy: %[1]s 'cd %[2]s && zip -qr - . -x "*.blk"' > target.zip && unzip -q target.zip -d target && kubectl vmbackup target contents --url "file://$PWD/target"
Longhorn's own view: kubectl vmbackup target sync %[3]s`, inside, dir, bt.Name)
}

// managerPod is the longhorn-manager that looks after a target: only there it is mounted.
func (t *Targets) managerPod(ctx context.Context, bt *longhornv1.BackupTarget) string {
	const label, field = "app=longhorn-manager", "spec.nodeName="
	if bt.Status.OwnerID == "" {
		return "ds/longhorn-manager"
	}
	pods, err := t.clients.Core.CoreV1().Pods(kube.LonghornNamespace).List(ctx, metav1.ListOptions{LabelSelector: label, FieldSelector: field + bt.Status.OwnerID})
	if err != nil || len(pods.Items) == 0 {
		return fmt.Sprintf("$(kubectl get pods -n %s -l %s --field-selector %s%s -o name)", kube.LonghornNamespace, label, field, bt.Status.OwnerID)
	}
	return pods.Items[0].Name
}

// mountDir is where Longhorn's backupstore mounts a network file system: nfs/nfs.go and
// cifs/cifs.go there.
func mountDir(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return path.Join("/var/lib/longhorn-backupstore-mounts", strings.TrimRight(strings.ReplaceAll(u.Host, ".", "_"), ":"), u.Path)
}
