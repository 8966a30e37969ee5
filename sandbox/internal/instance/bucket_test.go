// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestBucketIsHiddenAndShown(t *testing.T) {
	i := newInstance(t)
	if err := i.HideBucket(false); err == nil {
		t.Error("hidden without an instance")
	}
	if _, err := i.create(UpOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(i.bucket(), "folder", "file")
	write(t, file, "content")
	there := func(path string, want bool) {
		t.Helper()
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, replaced := range []bool{false, true} {
		if err := i.HideBucket(replaced); err != nil {
			t.Fatal(err)
		}
		there(i.bucket(), replaced)
		there(file, false)
		if err := i.HideBucket(replaced); !errors.Is(err, ErrHidden) {
			t.Errorf("hidden twice: %v", err)
		}
		if replaced {
			write(t, filepath.Join(i.bucket(), "later"), "x")
		}
		for range 2 {
			if err := i.ShowBucket(); err != nil {
				t.Fatal(err)
			}
			there(file, true)
			there(filepath.Join(i.bucket(), "later"), false)
		}
	}
}
