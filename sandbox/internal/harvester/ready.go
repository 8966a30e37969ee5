// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

// pollSeconds is how often Harvester and Longhorn look at the backup target.
const pollSeconds = 30

// tryWebhooks returns when the webhooks are registered and judge: a backup of
// a machine that is not there must be refused by them.
func tryWebhooks(ctx context.Context, env *component.Env) error {
	_, client, err := clients(env)
	if err != nil {
		return err
	}
	registration := watchfor.Object{
		Resource: schema.GroupVersionResource{
			Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations",
		},
		Name: "harvester-validator",
	}
	if _, err := watchfor.State(ctx, client, registration, func(*unstructured.Unstructured) (bool, string, error) {
		return true, "", nil
	}); err != nil {
		return err
	}
	backup := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1beta1", "kind": "VirtualMachineBackup",
		"metadata": map[string]any{"name": "webhook-check", "namespace": metav1.NamespaceDefault},
		"spec": map[string]any{
			"type":   "backup",
			"source": map[string]any{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "webhook-check"},
		},
	}}
	_, err = client.Resource(schema.GroupVersionResource{Group: group, Version: "v1beta1", Resource: "virtualmachinebackups"}).
		Namespace(metav1.NamespaceDefault).Create(ctx, backup, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return errors.New("the webhooks let a backup of no machine pass")
	case strings.Contains(err.Error(), `admission webhook "validator.harvesterhci.io" denied the request`):
		return nil
	}
	return fmt.Errorf("ask the webhooks: %w", err)
}

// setBackupTarget sets Harvester's backup target to the instance's S3 server
// and returns when Harvester has configured Longhorn by it.
func setBackupTarget(ctx context.Context, env *component.Env) error {
	_, client, err := clients(env)
	if err != nil {
		return err
	}
	target := watchfor.Object{
		Resource: schema.GroupVersionResource{Group: group, Version: "v1beta1", Resource: "settings"},
		Name:     "backup-target",
	}
	found, err := watchfor.State(ctx, client, target, func(*unstructured.Unstructured) (bool, string, error) {
		return true, "", nil
	})
	if err != nil {
		return err
	}
	if value, _, _ := unstructured.NestedString(found.Object, "value"); value == "" {
		if err := patchTarget(ctx, client, env, target); err != nil {
			return err
		}
	}
	// Harvester takes the keys out of the setting once Longhorn has them.
	if _, err := watchfor.State(ctx, client, target, func(o *unstructured.Unstructured) (bool, string, error) {
		return condition(o.Object, "configured") == "True", "not configured", nil
	}); err != nil {
		return err
	}
	_, err = watchfor.State(ctx, client, watchfor.Object{
		Resource:  schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backuptargets"},
		Namespace: "longhorn-system", Name: "default",
	}, func(o *unstructured.Unstructured) (bool, string, error) {
		secret, _, _ := unstructured.NestedString(o.Object, "spec", "credentialSecret")
		available, _, _ := unstructured.NestedBool(o.Object, "status", "available")
		return secret == "harvester-backup-target-secret" && available, "not available by Harvester's credentials", nil
	})
	return err
}

func patchTarget(ctx context.Context, client dynamic.Interface, env *component.Env, setting watchfor.Object) error {
	credentials, err := component.ReadS3Credentials(env)
	if err != nil {
		return err
	}
	value, err := json.Marshal(map[string]any{
		"type": "s3", "endpoint": env.S3Endpoint(),
		"accessKeyId": credentials.AccessKeyID, "secretAccessKey": credentials.SecretAccessKey,
		"bucketName": env.S3Bucket, "bucketRegion": "us-east-1", "cert": "", "virtualHostedStyle": false,
		"refreshIntervalInSeconds": pollSeconds,
	})
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"value": string(value)})
	if err != nil {
		return err
	}
	_, err = client.Resource(setting.Resource).Patch(ctx, setting.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
