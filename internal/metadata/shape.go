// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"reflect"
	"strings"
)

// shape is what scan knows of the type that a document becomes. nil is any.
type shape struct {
	// fields of an object, nil when its keys are free.
	fields map[string]reflect.Type
	// elem is what the entries of a list or a map are.
	elem reflect.Type
}

// shapeOf looks one level into a type. What reads itself, as json.RawMessage, is any.
func shapeOf(t reflect.Type) *shape {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return &shape{elem: t.Elem()}
	case reflect.Struct:
		s := &shape{fields: map[string]reflect.Type{}}
		s.add(t)
		return s
	}
	return nil
}

// add notes the fields of a struct, those of embedded ones among them.
func (s *shape) add(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			if embedded.Kind() == reflect.Struct {
				s.add(embedded)
			}
		case name == "":
			s.fields[f.Name] = f.Type
		default:
			s.fields[name] = f.Type
		}
	}
}

// of is the shape of the value at a key, or of an entry of a list.
func (s *shape) of(key string) *shape {
	if s == nil {
		return nil
	}
	if s.fields != nil {
		return shapeOf(s.fields[key])
	}
	return shapeOf(s.elem)
}

// otherCase is the known field that a key is but for its case, empty when there is none.
func (s *shape) otherCase(key string) string {
	if s == nil || s.fields == nil {
		return ""
	}
	if _, known := s.fields[key]; known {
		return ""
	}
	for name := range s.fields {
		if strings.EqualFold(name, key) {
			return name
		}
	}
	return ""
}
