// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// SameHarvesterBackup reports whether two files at a key describe the same
// backup, though their bytes differ: Harvester writes a file again in its own
// order of fields and volumes, and after a restore in place with the restored
// claims (see DecodeHarvester). A file that cannot be read is the same only as
// its own copy.
func SameHarvesterBackup(key string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	left, err := canonical(key, a)
	if err != nil {
		return false
	}
	right, err := canonical(key, b)
	if err != nil {
		return false
	}
	return reflect.DeepEqual(left, right)
}

// canonical reads a file and returns what it says without the order of fields
// and with volumes and secrets by name.
func canonical(key string, content []byte) (any, error) {
	rec, err := DecodeHarvester(key, content)
	if err != nil {
		return nil, err
	}
	plain := map[string]any{}
	for _, v := range rec.Backup.Status.Volumes {
		plain["volume/"+v.Name] = v
	}
	for kind, list := range map[string][]json.RawMessage{"vm": {rec.VM}, "claim": rec.Claims, "secret": rec.Secrets} {
		for _, raw := range list {
			m, err := parseManifest(raw)
			if err != nil {
				return nil, err
			}
			value, err := plainValue(raw)
			if err != nil {
				return nil, err
			}
			plain[kind+"/"+m.Metadata.Name] = value
		}
	}
	return plain, nil
}

// plainValue reads JSON with its numbers as they are written.
func plainValue(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	err := dec.Decode(&value)
	return value, err
}
