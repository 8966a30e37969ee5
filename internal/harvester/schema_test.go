// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// crdSchema is the part of an OpenAPI schema that shapes JSON.
type crdSchema struct {
	Type                 string               `json:"type"`
	Properties           map[string]crdSchema `json:"properties"`
	Required             []string             `json:"required"`
	Items                *crdSchema           `json:"items"`
	AdditionalProperties *crdSchema           `json:"additionalProperties"`
}

// kinds are the mirrored ones, by the file of their schema in testdata/crds: the
// schemas of the CRDs of Harvester 1.8.2, without their descriptions. The sandbox
// compares them with those that it installs.
func kinds() map[string]runtime.Object {
	return map[string]runtime.Object{
		BackupResource:   &VirtualMachineBackup{},
		RestoreResource:  &VirtualMachineRestore{},
		ImageResource:    &VirtualMachineImage{},
		ScheduleResource: &ScheduleVMBackup{},
		SettingResource:  &Setting{},
	}
}

// Every field of a CRD's schema has its field here, of a fitting type and optional
// where the schema lets it be, and there is no field that the schema lacks, but for
// what a later Harvester has.
func TestTypesMatchTheSchemas(t *testing.T) {
	for resource, object := range kinds() {
		data, err := os.ReadFile(filepath.Join("testdata", "crds", resource+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var s crdSchema
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		for _, difference := range compare(resource, s, reflect.TypeOf(object).Elem()) {
			if difference == "virtualmachinerestores.spec.haltAfterRestore: not in the schema" {
				continue // Harvester has it from 1.9 on
			}
			t.Error(difference)
		}
	}
}

func TestCompareFindsDifferences(t *testing.T) {
	type inner struct {
		Kept  string `json:"kept"`
		Extra int    `json:"extra,omitempty"`
	}
	type outer struct {
		Inner []inner           `json:"inner,omitempty"`
		Map   map[string]string `json:"map,omitempty"`
		Must  string            `json:"must,omitempty"`
		May   bool              `json:"may"`
	}
	var s crdSchema
	err := json.Unmarshal([]byte(`{"type":"object","required":["must"],"properties":{
		"inner":{"type":"array","items":{"type":"object","required":["kept"],"properties":{"kept":{"type":"integer"},"missing":{"type":"string"}}}},
		"map":{"type":"object","additionalProperties":{"type":"integer"}},
		"must":{"type":"string"},"may":{"type":"boolean"}}}`), &s)
	if err != nil {
		t.Fatal(err)
	}
	got := compare("o", s, reflect.TypeFor[outer]())
	want := []string{
		"o.inner[].extra: not in the schema",
		"o.inner[].kept: integer in the schema, string here",
		"o.inner[].missing: not here",
		"o.map{}: integer in the schema, string here",
		"o.may: written when it is empty, and not required",
		"o.must: required, and left out when it is empty",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// compare returns the differences between a schema and a Go type, in order.
func compare(path string, s crdSchema, t reflect.Type) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	// What is passed through as it is.
	switch t {
	case reflect.TypeFor[json.RawMessage](), reflect.TypeFor[metav1.ObjectMeta]():
		return typeIs(path, s, "object")
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[[]byte]():
		return typeIs(path, s, "string")
	}
	switch t.Kind() {
	case reflect.Struct:
		return append(typeIs(path, s, "object"), compareFields(path, s, t)...)
	case reflect.Slice:
		if differs := typeIs(path, s, "array"); differs != nil || s.Items == nil {
			return differs
		}
		return compare(path+"[]", *s.Items, t.Elem())
	case reflect.Map:
		if differs := typeIs(path, s, "object"); differs != nil || s.AdditionalProperties == nil {
			return append(differs, fmt.Sprintf("%s: no map in the schema", path))
		}
		return compare(path+"{}", *s.AdditionalProperties, t.Elem())
	case reflect.String:
		return typeIs(path, s, "string")
	case reflect.Bool:
		return typeIs(path, s, "boolean")
	case reflect.Int, reflect.Int64:
		return typeIs(path, s, "integer")
	}
	return []string{fmt.Sprintf("%s: what is a %s in JSON?", path, t)}
}

func typeIs(path string, s crdSchema, want string) []string {
	if s.Type != want {
		return []string{fmt.Sprintf("%s: %s in the schema, %s here", path, s.Type, want)}
	}
	return nil
}

func compareFields(path string, s crdSchema, t reflect.Type) []string {
	var differences []string
	fields := map[string]bool{}
	for field := range jsonFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		fields[name] = true
		property, ok := s.Properties[name]
		at := path + "." + name
		if !ok {
			differences = append(differences, at+": not in the schema")
			continue
		}
		differences = append(differences, compare(at, property, field.Type)...)
		required, optional := slices.Contains(s.Required, name), strings.HasPrefix(options, "omit")
		switch {
		case required && optional:
			differences = append(differences, at+": required, and left out when it is empty")
		// A null says nothing, and an empty object is one.
		case !required && !optional && field.Type.Kind() != reflect.Struct && field.Type.Kind() != reflect.Pointer:
			differences = append(differences, at+": written when it is empty, and not required")
		}
	}
	for name := range s.Properties {
		if !fields[name] {
			differences = append(differences, fmt.Sprintf("%s.%s: not here", path, name))
		}
	}
	slices.Sort(differences)
	return differences
}

// jsonFields are the fields of a struct with those of inlined ones.
func jsonFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, field := range reflect.VisibleFields(t) {
			if name, options, _ := strings.Cut(field.Tag.Get("json"), ","); name == "" && options == "inline" {
				continue
			}
			// Fields of the object's metadata are promoted; they are the metadata's.
			if len(field.Index) > 1 && t.FieldByIndex(field.Index[:1]).Name == "ObjectMeta" {
				continue
			}
			if !yield(field) {
				return
			}
		}
	}
}
