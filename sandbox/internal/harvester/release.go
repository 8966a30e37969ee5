// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// release is the record that Helm keeps of Harvester's chart. Harvester reads in it
// which image the jobs of its schedules have; no image is ever pulled.
func release() (*unstructured.Unstructured, error) {
	record, err := json.Marshal(map[string]any{
		"name": "harvester", "namespace": Namespace, "version": 1,
		"info": map[string]any{"status": "deployed"},
		"chart": map[string]any{
			"metadata": map[string]any{"name": "harvester", "version": version, "apiVersion": "v2"},
			"values": map[string]any{"generalJob": map[string]any{"image": map[string]any{
				"repository": "registry.suse.com/bci/bci-base", "tag": "15.6", "imagePullPolicy": "IfNotPresent",
			}}},
		},
	})
	if err != nil {
		return nil, err
	}
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, err = w.Write(record)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
		"metadata": map[string]any{
			"name": "sh.helm.release.v1.harvester.v1", "namespace": Namespace,
			"labels": map[string]any{"owner": "helm", "name": "harvester", "status": "deployed", "version": "1"},
		},
		"stringData": map[string]any{"release": base64.StdEncoding.EncodeToString(compressed.Bytes())},
	}}, nil
}
