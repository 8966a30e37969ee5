// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// ToUnstructured makes what kubectl's printers take of an object of the domain:
// an *unstructured.Unstructured of a value or pointer that has apiVersion and
// kind, or an *unstructured.UnstructuredList of a slice of such, of the kind
// List. Bytes stay integers and times RFC 3339.
func ToUnstructured(v any) (runtime.Object, error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Slice {
		return object(v)
	}
	list := &unstructured.UnstructuredList{
		Object: map[string]any{"apiVersion": vmbackup.APIVersion, "kind": vmbackup.KindList},
		Items:  make([]unstructured.Unstructured, 0, rv.Len()),
	}
	for i := range rv.Len() {
		item, err := object(rv.Index(i).Interface())
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		list.Items = append(list.Items, *item)
	}
	return list, nil
}

func object(v any) (*unstructured.Unstructured, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	out := &unstructured.Unstructured{}
	// Kubernetes' decoder keeps whole numbers whole.
	if err := utiljson.Unmarshal(buffer.Bytes(), &out.Object); err != nil {
		return nil, fmt.Errorf("decode %T: %w", v, err)
	}
	if out.GetAPIVersion() == "" || out.GetKind() == "" {
		return nil, fmt.Errorf("%T has no apiVersion and kind", v)
	}
	return out, nil
}
