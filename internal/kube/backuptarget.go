// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// BackupTarget is a backup target as Longhorn sees it.
type BackupTarget struct {
	// URL is Longhorn's, without credentials.
	URL string
	// Credentials are the data of the target's Secret; empty when it names none.
	Credentials map[string][]byte
}

// ReadBackupTarget reads a BackupTarget and its credentials, and refuses one that
// Longhorn itself cannot use now.
func (c *Clients) ReadBackupTarget(ctx context.Context, name string) (*BackupTarget, error) {
	const look = "look at it with: kubectl get backuptargets.longhorn.io %s -n %s -o yaml"
	bt, err := c.Longhorn.LonghornV1beta2().BackupTargets(LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !notServed(err) {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn has no backup target %q", name).
			WithHint("list those there are with: kubectl get backuptargets.longhorn.io -n %s", LonghornNamespace)
	}
	if err != nil {
		return nil, Error(err, "read", "Longhorn BackupTarget "+name)
	}
	if bt.Spec.BackupTargetURL == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target %q of Longhorn has no URL, so there is nowhere to back up to", name).
			WithHint("set it in Longhorn's settings (or in Harvester's setting backup-target), then run the same command again")
	}
	if !bt.Status.Available {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn cannot use backup target %q (%s): %s", name, bt.Spec.BackupTargetURL, Unavailable(bt)).
			WithHint("mend the target or its credentials; "+look, name, LonghornNamespace)
	}
	t := &BackupTarget{URL: bt.Spec.BackupTargetURL}
	if bt.Spec.CredentialSecret == "" {
		return t, nil
	}
	secret, err := c.Core.CoreV1().Secrets(LonghornNamespace).Get(ctx, bt.Spec.CredentialSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "the credentials of backup target %q are missing: there is no Secret %s/%s", name, LonghornNamespace, bt.Spec.CredentialSecret).
			WithHint("make the Secret, with the keys that the target's own cluster has there, or set the target again with: kubectl vmbackup target set %s", name)
	}
	if err != nil {
		return nil, Error(err, "read", "Secret "+LonghornNamespace+"/"+bt.Spec.CredentialSecret+" with the credentials of backup target "+name)
	}
	t.Credentials = secret.Data
	return t, nil
}

// Unavailable is Longhorn's reason why a target cannot be used.
func Unavailable(bt *longhornv1.BackupTarget) string {
	for _, c := range bt.Status.Conditions {
		if c.Type == longhornv1.BackupTargetConditionTypeUnavailable && c.Status == longhornv1.ConditionStatusTrue && c.Message != "" {
			return Brief(strings.TrimSpace(c.Message))
		}
	}
	return "it gives no reason"
}
