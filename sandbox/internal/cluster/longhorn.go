// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

const (
	longhornNamespace   = "longhorn-system"
	longhornAccount     = "longhorn-service-account"
	credentialSecret    = "sandbox-backup-target" //nolint:gosec // a name
	longhornManagerURL  = "http://" + component.RoutableIP + ":9500/v1"
	serviceAccountFiles = "/run/secrets/kubernetes.io/serviceaccount"
)

// Images are the names under which longhorn-manager knows the programs. No
// image is ever pulled: the kubelet stand-in runs the programs that were built.
const (
	engineImage              = "longhornio/longhorn-engine:v1.12.0"
	instanceManagerImage     = "longhornio/longhorn-instance-manager:v1.12.0"
	backingImageManagerImage = "longhornio/backing-image-manager:v1.12.0"
	managerImage             = "longhornio/longhorn-manager:v1.12.0"
	shareManagerImage        = "longhornio/longhorn-share-manager:v1.12.0"
	supportBundleImage       = "longhornio/support-bundle-kit:v0.0.60"
)

// longhorn is longhorn-manager with what its chart would have made.
func longhorn(env *component.Env) []component.Component {
	return []component.Component{
		{
			Name:  "iscsid",
			Role:  component.StandIn,
			About: "the iSCSI initiator that Longhorn looks for; there is no block device behind it",
			Path:  "/usr/local/sbin/iscsid",
			Args:  []string{"standin", "idle"},
		},
		task(longhornObjects, "Longhorn's CRDs, account, settings, services and backup target",
			func(ctx context.Context) error { return installLonghorn(ctx, env) }, apiServer, clusterObjects),
		task("longhorn-account", "the service account files that a pod of Longhorn would find",
			func(ctx context.Context) error { return mountServiceAccount(ctx, env) }, longhornObjects, controllerManager),
		task("longhorn-manager-pod", "the pod that longhorn-manager takes for its own",
			func(ctx context.Context) error { return waitManagerPod(ctx, env) }, longhornObjects, kubelet),
		{
			Name:  "no-block-device",
			Role:  component.StandIn,
			About: "gives every Longhorn volume the empty frontend, as there is no iSCSI in the kernel",
			After: []string{longhornObjects},
			Path:  env.Executable,
			Args:  []string{"standin", "frontend", "--dir", env.Dir},
			Ready: component.FileReady(env.Path("run", "frontend.ready")),
			Prepare: func(context.Context) error {
				return removeIfThere(env.Path("run", "frontend.ready"))
			},
		},
		{
			Name:  longhornManager,
			Role:  component.Real,
			About: "longhorn-manager with its admission webhooks",
			After: []string{"iscsid", "longhorn-account", "longhorn-manager-pod", "no-block-device"},
			Path:  env.Binary(build.LonghornManager, "longhorn-manager"),
			Args: []string{
				"-d", "daemon",
				"--engine-image", engineImage,
				"--instance-manager-image", instanceManagerImage,
				"--share-manager-image", shareManagerImage,
				"--backing-image-manager-image", backingImageManagerImage,
				"--support-bundle-manager-image", supportBundleImage,
				"--manager-image", managerImage,
				"--service-account", longhornAccount,
			},
			Env: []string{
				"POD_NAMESPACE=" + longhornNamespace,
				"POD_NAME=" + longhornManager,
				"POD_IP=" + component.RoutableIP, // as the kubelet stand-in says of its pod
			},
			Ready: component.HTTPReady(longhornManagerURL),
		},
		task(longhornReady, "Longhorn's node schedulable and the backup target available",
			func(ctx context.Context) error { return waitLonghorn(ctx, env) }, longhornManager),
	}
}

func installLonghorn(ctx context.Context, env *component.Env) error {
	if err := installEngineBinary(env); err != nil {
		return err
	}
	if err := createFiles(ctx, env, env.Share(build.LonghornManager, "crds.yaml")); err != nil {
		return err
	}
	if err := applyEmbedded(ctx, env, "longhorn.yaml"); err != nil {
		return err
	}
	credentials, err := component.ReadS3Credentials(env)
	if err != nil {
		return err
	}
	a, err := applier(env)
	if err != nil {
		return err
	}
	// The map is what the chart's defaultBackupStore values become.
	return a.Apply(ctx,
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret",
			"metadata": map[string]any{"name": credentialSecret, "namespace": longhornNamespace},
			"stringData": map[string]any{
				"AWS_ACCESS_KEY_ID":     credentials.AccessKeyID,
				"AWS_SECRET_ACCESS_KEY": credentials.SecretAccessKey,
				"AWS_ENDPOINTS":         env.S3Endpoint(),
			},
		}},
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": "longhorn-default-resource", "namespace": longhornNamespace},
			"data": map[string]any{"default-resource.yaml": fmt.Sprintf(
				"backup-target: s3://%s@us-east-1/\nbackup-target-credential-secret: %s\nbackupstore-poll-interval: 30\n",
				env.S3Bucket, credentialSecret)},
		}},
	)
}

// installEngineBinary puts the engine where the pod of an engine image would copy it.
func installEngineBinary(env *component.Env) error {
	dir := filepath.Join("/var/lib/longhorn/engine-binaries", strings.NewReplacer("/", "-", ":", "-").Replace(engineImage))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	target := filepath.Join(dir, "longhorn")
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	in, err := os.Open(env.Binary(build.LonghornEngine, "longhorn"))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(out.Close(), os.Rename(target+".new", target))
}

// mountServiceAccount waits for the token of Longhorn's account and writes the
// files by which an in-cluster client finds the API server.
func mountServiceAccount(ctx context.Context, env *component.Env) error {
	client, err := dynamicClient(env)
	if err != nil {
		return err
	}
	secret, err := watchfor.State(ctx, client, watchfor.Object{
		Resource:  schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
		Namespace: longhornNamespace, Name: longhornAccount + "-token",
	}, func(o *unstructured.Unstructured) (bool, string, error) {
		token, _, _ := unstructured.NestedString(o.Object, "data", "token")
		return token != "", "has no token yet", nil
	})
	if err != nil {
		return err
	}
	for _, key := range []string{"token", "ca.crt", "namespace"} {
		encoded, _, err := unstructured.NestedString(secret.Object, "data", key)
		if err != nil {
			return err
		}
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(serviceAccountFiles, key), value, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// waitManagerPod waits for the DaemonSet's pod: longhorn-manager labels it at its start.
func waitManagerPod(ctx context.Context, env *component.Env) error {
	client, err := dynamicClient(env)
	if err != nil {
		return err
	}
	_, err = watchfor.State(ctx, client, watchfor.Object{
		Resource:  schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"},
		Namespace: longhornNamespace, Name: longhornManager,
	}, func(o *unstructured.Unstructured) (bool, string, error) {
		ready, _, _ := unstructured.NestedInt64(o.Object, "status", "numberReady")
		return ready == 1, fmt.Sprintf("%d pods ready", ready), nil
	})
	return err
}

// waitLonghorn waits until volumes can be made and backed up.
func waitLonghorn(ctx context.Context, env *component.Env) error {
	client, err := dynamicClient(env)
	if err != nil {
		return err
	}
	_, err = watchfor.State(ctx, client, longhornObject("nodes", component.NodeName),
		func(o *unstructured.Unstructured) (bool, string, error) {
			for _, condition := range []string{"Ready", "Schedulable"} {
				if ok, message := conditionTrue(o.Object, condition, "status"); !ok {
					return false, fmt.Sprintf("condition %s: %s", condition, message), nil
				}
			}
			disks, _, _ := unstructured.NestedMap(o.Object, "status", "diskStatus")
			for name, disk := range disks {
				fields, _ := disk.(map[string]any)
				if ok, message := conditionTrue(fields, "Schedulable"); !ok {
					return false, fmt.Sprintf("disk %s not schedulable: %s", name, message), nil
				}
			}
			return len(disks) > 0, "has no disk", nil
		})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go syncBackupTarget(ctx, client)
	_, err = watchfor.State(ctx, client, longhornObject("backuptargets", "default"),
		func(o *unstructured.Unstructured) (bool, string, error) {
			available, _, _ := unstructured.NestedBool(o.Object, "status", "available")
			return available, "not available", nil
		})
	return err
}

// syncBackupTarget asks Longhorn to look at the target now and again until ctx
// ends: its own first look was before anything could run the engine, and its
// next is a poll interval away.
func syncBackupTarget(ctx context.Context, client dynamic.Interface) {
	const interval = 2 * time.Second
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	target := longhornObject("backuptargets", "default")
	for {
		patch := fmt.Appendf(nil, `{"spec":{"syncRequestedAt":%q}}`, time.Now().UTC().Format(time.RFC3339))
		_, err := client.Resource(target.Resource).Namespace(target.Namespace).
			Patch(ctx, target.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "sync backup target %s: %v\n", target.Name, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func longhornObject(resource, name string) watchfor.Object {
	return watchfor.Object{
		Resource:  schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: resource},
		Namespace: longhornNamespace, Name: name,
	}
}

// conditionTrue looks a condition up in <path>.conditions.
func conditionTrue(object map[string]any, kind string, path ...string) (ok bool, message string) {
	conditions, _, _ := unstructured.NestedSlice(object, append(path, "conditions")...)
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["type"] == kind {
			return condition["status"] == "True", fmt.Sprint(condition["message"])
		}
	}
	return false, "not reported yet"
}

func dynamicClient(env *component.Env) (dynamic.Interface, error) {
	cfg, err := env.AdminConfig()
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(cfg)
}
