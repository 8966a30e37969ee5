// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// claimNames chooses the claims' names: the old ones where they are free. In place the
// old ones are not touched, so that each gets a new one, even where it is missing.
func claimNames(backup *vmbackup.Backup, n *renaming, taken map[string]bool) map[string]string {
	names := map[string]string{}
	for _, v := range backup.Status.Volumes {
		name := v.PVC
		if n.renamed() {
			name = shorten(n.to.Name+"-"+v.Name, 253)
			if v.Name == capture.StateVolume(n.from.Name) {
				name = capture.StateVolume(n.to.Name)
			}
		}
		if n.inPlace {
			name = strings.TrimSuffix(name, "-"+n.tokens[name])
		}
		if taken[name] || n.inPlace {
			name = shorten(name+"-"+n.operation, 253)
		}
		names[v.PVC] = name
	}
	return names
}

// claimTokens are the tokens of the restores that backed-up claims come from, by the
// claim: a name that ends in one gets another one in its place.
func claimTokens(record *metadata.Record) map[string]string {
	tokens := map[string]string{}
	for _, raw := range record.Claims {
		if m, err := metadata.ParseManifest(raw); err == nil && m.Metadata.Labels[LabelOperation] != "" {
			tokens[m.Metadata.Name] = m.Metadata.Labels[LabelOperation]
		}
	}
	return tokens
}

// claimOf is the backed-up claim of that name.
func claimOf(record *metadata.Record, name string) (json.RawMessage, error) {
	for _, raw := range record.Claims {
		m, err := metadata.ParseManifest(raw)
		if err != nil {
			return nil, fmt.Errorf("a claim of backup %s: %w", record.Backup.Ref(), err)
		}
		if m.Metadata.Name == name {
			return raw, nil
		}
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "backup %s does not hold the PersistentVolumeClaim %s, so its volume cannot be restored", record.Backup.Ref(), name)
}

// plannedObjects is what planObjects decided.
type plannedObjects struct {
	names   map[string]string
	create  []json.RawMessage
	planned []vmbackup.PlannedObject
}

// planObjects chooses the names of Secrets or ConfigMaps. One that is there with the
// same content is shared, as machines share such objects: but not by a copy with an
// object that belongs to somebody and goes with him. One that is there with another
// content stays, and the machine's own comes back under another name.
func (e *Engine) planObjects(ctx context.Context, backedUp []json.RawMessage, n *renaming, kind string, read func(ctx context.Context, namespace, name string) (*foundObject, error)) (*plannedObjects, error) {
	result := &plannedObjects{names: map[string]string{}}
	for _, raw := range backedUp {
		old, err := metadata.ParseManifest(raw)
		if err != nil {
			return nil, fmt.Errorf("a %s of backup %s: %w", kind, n.backup, err)
		}
		name := old.Metadata.Name
		have, err := read(ctx, n.to.Namespace, name)
		if err != nil {
			return nil, err
		}
		if have != nil && sameContent(old, have.Manifest) && (!have.owned || !n.renamed()) {
			result.names[name] = name
			result.planned = append(result.planned, vmbackup.PlannedObject{Action: vmbackup.ActionUse, APIVersion: "v1", Kind: kind, Namespace: n.to.Namespace, Name: name, Note: "is there already with the same content"})
			continue
		}
		if have != nil && n.renamed() {
			name = shorten(n.to.Name+"-"+name, 253)
			if have, err = read(ctx, n.to.Namespace, name); err != nil {
				return nil, err
			}
		}
		if have != nil {
			name = shorten(name+"-"+n.operation, 253)
		}
		manifest, err := restoredObject(raw, name, n)
		if err != nil {
			return nil, err
		}
		result.names[old.Metadata.Name] = name
		result.create = append(result.create, manifest)
		result.planned = append(result.planned, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: kind, Namespace: n.to.Namespace, Name: name})
	}
	return result, nil
}

// foundObject is a Secret or ConfigMap that is there.
type foundObject struct {
	*metadata.Manifest
	// owned is true when it goes with another object.
	owned bool
}

func (e *Engine) readSecret(ctx context.Context, namespace, name string) (*foundObject, error) {
	s, err := e.clients.Core.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Error(err, "read", "Secret "+namespace+"/"+name)
	}
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	return manifestOf(s)
}

func (e *Engine) readConfigMap(ctx context.Context, namespace, name string) (*foundObject, error) {
	m, err := e.clients.Core.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Error(err, "read", "ConfigMap "+namespace+"/"+name)
	}
	m.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	return manifestOf(m)
}

func manifestOf(object metav1.Object) (*foundObject, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	m, err := metadata.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	return &foundObject{m, len(object.GetOwnerReferences()) > 0}, nil
}

// sameContent compares everything but the objects' metadata.
func sameContent(a, b *metadata.Manifest) bool {
	decode := func(m *metadata.Manifest) map[string]any {
		fields := map[string]any{}
		for key, raw := range m.Fields {
			var value any
			if json.Unmarshal(raw, &value) == nil {
				fields[key] = value
			}
		}
		return fields
	}
	return slices.Equal(slices.Sorted(maps.Keys(a.Fields)), slices.Sorted(maps.Keys(b.Fields))) && reflect.DeepEqual(decode(a), decode(b))
}
