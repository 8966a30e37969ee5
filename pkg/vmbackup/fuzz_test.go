// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "testing"

// FuzzParseRef: what is taken for a name says the same again.
func FuzzParseRef(f *testing.F) {
	for _, text := range []string{"a", "ns/a", "", "/", "a/", "/a", "a/b/c", "../a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseRef(text, "")
		if err != nil {
			if ReasonOf(err) != ReasonInvalidRequest {
				t.Fatal(err)
			}
			return
		}
		if ref.String() != text {
			t.Fatalf("%q becomes %q", text, ref)
		}
	})
}
