// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"os"
	"path/filepath"
	"testing"
)

const legacyKey = "harvester/vmbackups/legacyns/legacy1.cfg"

func golden(t testing.TB, key string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(key)))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// What Harvester's own controllers wrote is read and written again byte for byte.
func TestHarvesterGolden(t *testing.T) {
	content := golden(t, legacyKey)
	rec, err := DecodeHarvester(legacyKey, content)
	if err != nil {
		t.Fatal(err)
	}
	again, err := EncodeHarvester(rec)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(content) {
		t.Errorf("encoded again:\n%s\nHarvester wrote:\n%s", again, content)
	}
}
