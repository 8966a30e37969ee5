// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
)

// written are objects that Harvester 1.8.2's own controllers have written, by file.
func written(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "objects", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects[filepath.Base(file)] = data
	}
	return objects
}

// empty returns a new object of the kind that a file name begins with.
func empty(t *testing.T, file string) runtime.Object {
	t.Helper()
	for resource, object := range kinds() {
		if strings.HasPrefix(file, resource+".") {
			return object
		}
	}
	t.Fatalf("%s is of no kind", file)
	return nil
}

// What the controllers wrote is read without a field too many, and written again
// with the same content.
func TestRoundTripOfWhatControllersWrote(t *testing.T) {
	seen := map[reflect.Type]bool{}
	for file, data := range written(t) {
		object := empty(t, file)
		seen[reflect.TypeOf(object)] = true
		unknown, err := kjson.UnmarshalStrict(data, object)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for _, u := range unknown {
			t.Errorf("%s: %v", file, u)
		}
		again, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := plain(t, again), plain(t, data); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: written again:\n%s\nthe controllers wrote:\n%s", file, again, data)
		}
	}
	for resource, object := range kinds() {
		if !seen[reflect.TypeOf(object)] {
			t.Errorf("no object of %s in testdata/objects", resource)
		}
	}
}

// plain is JSON without what has no meaning: nulls, and members that are empty.
func plain(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return pruned(v)
}

func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if member = pruned(member); member == nil {
				delete(v, key)
				continue
			}
			v[key] = member
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = pruned(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// A copy is equal and shares nothing that can change.
func TestDeepCopy(t *testing.T) {
	for file, data := range written(t) {
		object := empty(t, file)
		if err := json.Unmarshal(data, object); err != nil {
			t.Fatal(err)
		}
		c := object.DeepCopyObject()
		if !reflect.DeepEqual(c, object) {
			t.Errorf("%s: the copy differs", file)
		}
		for _, path := range shared(reflect.ValueOf(object), reflect.ValueOf(c), strings.TrimSuffix(file, ".json")) {
			t.Errorf("the copy shares %s", path)
		}
	}
}

// Every field that can be shared is filled, whether a controller wrote it or not.
func TestDeepCopyOfFilledObjects(t *testing.T) {
	for resource, object := range kinds() {
		fill(reflect.ValueOf(object).Elem())
		c := object.DeepCopyObject()
		if !reflect.DeepEqual(c, object) {
			t.Errorf("%s: the copy differs", resource)
		}
		for _, path := range shared(reflect.ValueOf(object), reflect.ValueOf(c), resource) {
			t.Errorf("the copy shares %s", path)
		}
	}
	list := &VirtualMachineBackupList{Items: []VirtualMachineBackup{{Status: VirtualMachineBackupStatus{Conditions: []Condition{{}}}}}}
	c := list.DeepCopyObject()
	if paths := shared(reflect.ValueOf(list), reflect.ValueOf(c), "list"); len(paths) > 0 || !reflect.DeepEqual(c, list) {
		t.Errorf("the copy of a list shares %v", paths)
	}
}

// fill gives every pointer, slice and map something.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		element := reflect.New(v.Type().Elem()).Elem()
		fill(element)
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), element)
	case reflect.String:
		v.SetString("x")
	}
}

// shared finds the memory that two equal values have in common.
func shared(a, b reflect.Value, path string) []string {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() {
			return nil
		}
		if a.Pointer() == b.Pointer() {
			return []string{path}
		}
		return shared(a.Elem(), b.Elem(), path)
	case reflect.Struct:
		var found []string
		for i := range a.NumField() {
			if a.Type().Field(i).IsExported() {
				found = append(found, shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name)...)
			}
		}
		return found
	case reflect.Slice:
		if a.Len() == 0 {
			return nil
		}
		if a.Pointer() == b.Pointer() {
			return []string{path}
		}
		var found []string
		for i := range a.Len() {
			found = append(found, shared(a.Index(i), b.Index(i), path+"[]")...)
		}
		return found
	case reflect.Map:
		if a.Len() == 0 {
			return nil
		}
		if a.Pointer() == b.Pointer() {
			return []string{path}
		}
		var found []string
		for _, key := range a.MapKeys() {
			found = append(found, shared(a.MapIndex(key), b.MapIndex(key), path+"{}")...)
		}
		return found
	}
	return nil
}
