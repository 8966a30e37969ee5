// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/longhorndisk"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

// Disks gives access to the content of PVCs on Longhorn, in place of the block
// device that a guest would have. It works inside an instance and on the host.
type Disks struct {
	client dynamic.Interface
	env    *component.Env
}

// NewDisks uses client for the cluster and env for the data on disk.
func NewDisks(client dynamic.Interface, env *component.Env) *Disks {
	return &Disks{client: client, env: env}
}

// ErrRestoring says that a volume does not have its content yet.
var ErrRestoring = errors.New("the volume is still being restored")

// Volume returns the name of the Longhorn volume behind a PVC. It waits until
// the PVC is bound.
func (d *Disks) Volume(ctx context.Context, namespace, pvc string) (string, error) {
	bound, err := watchfor.State(ctx, d.client, watchfor.Object{
		Resource:  schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"},
		Namespace: namespace, Name: pvc,
	}, func(o *unstructured.Unstructured) (bool, string, error) {
		phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
		return phase == "Bound", "is " + phase, nil
	})
	if err != nil {
		return "", err
	}
	name, _, _ := unstructured.NestedString(bound.Object, "spec", "volumeName")
	pv, err := d.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}).
		Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	driver, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", "driver")
	if driver != "driver.longhorn.io" {
		return "", fmt.Errorf("PVC %s/%s: its volume belongs to driver %q, not to Longhorn", namespace, pvc, driver)
	}
	handle, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", "volumeHandle")
	return handle, nil
}

// Attach asks Longhorn to attach a volume on behalf of holder and returns when
// it is attached. The same holder may ask again.
func (d *Disks) Attach(ctx context.Context, volume, holder string) error {
	ticket := map[string]any{
		"id": holder, "type": "longhorn-api", "nodeID": component.NodeName,
		"parameters": map[string]any{"disableFrontend": "true"},
	}
	if err := d.patchTicket(ctx, volume, holder, ticket); err != nil {
		return fmt.Errorf("attach volume %s: %w", volume, err)
	}
	_, err := watchfor.State(ctx, d.client, volumeObject(volume), func(o *unstructured.Unstructured) (bool, string, error) {
		state, _, _ := unstructured.NestedString(o.Object, "status", "state")
		return state == "attached", "is " + state, nil
	})
	return err
}

// Detach takes holder's request back. The volume stays attached as long as
// others hold it, so this does not wait.
func (d *Disks) Detach(ctx context.Context, volume, holder string) error {
	if err := d.patchTicket(ctx, volume, holder, nil); err != nil {
		return fmt.Errorf("detach volume %s: %w", volume, err)
	}
	return nil
}

// patchTicket sets or removes one ticket of Longhorn's VolumeAttachment, which has the volume's name.
func (d *Disks) patchTicket(ctx context.Context, volume, holder string, ticket any) error {
	patch := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"attachmentTickets": map[string]any{holder: ticket}},
	}}
	body, err := patch.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = d.client.Resource(longhornResource("volumeattachments")).Namespace(longhornNamespace).
		Patch(ctx, volume, types.MergePatchType, body, metav1.PatchOptions{})
	return err
}

// Write writes size bytes from data at off of a PVC's disk, attaching the
// volume for the time of the write.
func (d *Disks) Write(ctx context.Context, namespace, pvc string, data io.Reader, off, size int64) (err error) {
	volume, err := d.Volume(ctx, namespace, pvc)
	if err != nil {
		return err
	}
	if err := d.checkRestored(ctx, volume); err != nil {
		return fmt.Errorf("PVC %s/%s: %w", namespace, pvc, err)
	}
	const holder = "sandbox-disk"
	if err := d.Attach(ctx, volume, holder); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.release(context.WithoutCancel(ctx), volume, holder)) }()
	if err := d.WriteAttached(ctx, volume, data, off, size); err != nil {
		return fmt.Errorf("PVC %s/%s: %w", namespace, pvc, err)
	}
	return nil
}

// WriteAttached writes size bytes from data at off of a Longhorn volume that
// the caller holds attached.
func (d *Disks) WriteAttached(ctx context.Context, volume string, data io.Reader, off, size int64) error {
	dir, err := d.replicaDir(ctx, volume)
	if err != nil {
		return err
	}
	return longhorndisk.Write(dir, data, off, size)
}

// release detaches and, when nobody else holds the volume, waits until it is
// detached: whoever comes next finds it at rest.
func (d *Disks) release(ctx context.Context, volume, holder string) error {
	if err := d.Detach(ctx, volume, holder); err != nil {
		return err
	}
	attachment, err := d.client.Resource(longhornResource("volumeattachments")).Namespace(longhornNamespace).
		Get(ctx, volume, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if others, _, _ := unstructured.NestedMap(attachment.Object, "spec", "attachmentTickets"); len(others) > 0 {
		return nil
	}
	_, err = watchfor.State(ctx, d.client, volumeObject(volume), func(o *unstructured.Unstructured) (bool, string, error) {
		state, _, _ := unstructured.NestedString(o.Object, "status", "state")
		return state == "detached", "is " + state, nil
	})
	return err
}

// SHA256 is the hex checksum of the full logical content of a PVC's disk,
// attached or not. It fails with ErrRestoring while the content is not there yet.
func (d *Disks) SHA256(ctx context.Context, namespace, pvc string) (string, error) {
	volume, err := d.Volume(ctx, namespace, pvc)
	if err != nil {
		return "", err
	}
	sum, err := d.VolumeSHA256(ctx, volume)
	if err != nil {
		return "", fmt.Errorf("PVC %s/%s: %w", namespace, pvc, err)
	}
	return sum, nil
}

// VolumeSHA256 is SHA256 for a Longhorn volume.
func (d *Disks) VolumeSHA256(ctx context.Context, volume string) (string, error) {
	if err := d.checkRestored(ctx, volume); err != nil {
		return "", err
	}
	dir, err := d.replicaDir(ctx, volume)
	if err != nil {
		return "", err
	}
	return longhorndisk.SHA256(dir)
}

// checkRestored fails as long as a volume made from a backup or a snapshot has not got
// its data.
func (d *Disks) checkRestored(ctx context.Context, volume string) error {
	object, err := d.client.Resource(longhornResource("volumes")).Namespace(longhornNamespace).
		Get(ctx, volume, metav1.GetOptions{})
	if err != nil {
		return err
	}
	source, _, _ := unstructured.NestedString(object.Object, "spec", "dataSource")
	if state, _, _ := unstructured.NestedString(object.Object, "status", "cloneStatus", "state"); source != "" && state != "completed" {
		return fmt.Errorf("volume %s: %w", volume, ErrRestoring)
	}
	if from, _, _ := unstructured.NestedString(object.Object, "spec", "fromBackup"); from == "" {
		return nil
	}
	initiated, _, _ := unstructured.NestedBool(object.Object, "status", "restoreInitiated")
	required, _, _ := unstructured.NestedBool(object.Object, "status", "restoreRequired")
	if !initiated || required {
		return fmt.Errorf("volume %s: %w", volume, ErrRestoring)
	}
	return nil
}

// replicaDir is the directory of a healthy replica of the volume.
func (d *Disks) replicaDir(ctx context.Context, volume string) (string, error) {
	list, err := d.client.Resource(longhornResource("replicas")).Namespace(longhornNamespace).
		List(ctx, metav1.ListOptions{LabelSelector: "longhornvolume=" + volume})
	if err != nil {
		return "", err
	}
	for _, replica := range list.Items {
		failed, _, _ := unstructured.NestedString(replica.Object, "spec", "failedAt")
		name, _, _ := unstructured.NestedString(replica.Object, "spec", "dataDirectoryName")
		disk, _, _ := unstructured.NestedString(replica.Object, "spec", "diskPath")
		if failed != "" || name == "" {
			continue
		}
		dir := filepath.Join(disk, "replicas", name)
		// Longhorn's path inside is a directory of the instance's state.
		const inside = "/var/lib/longhorn/"
		if rest, ok := strings.CutPrefix(dir, inside); ok {
			dir = d.env.Path("longhorn", rest)
		}
		return dir, nil
	}
	return "", fmt.Errorf("volume %s has no healthy replica on the node", volume)
}

func volumeObject(name string) watchfor.Object {
	return watchfor.Object{Resource: longhornResource("volumes"), Namespace: longhornNamespace, Name: name}
}
