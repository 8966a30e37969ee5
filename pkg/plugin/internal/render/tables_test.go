// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"testing"
)

func TestTables(t *testing.T) {
	for name, o := range layouts() {
		for _, wide := range []bool{false, true} {
			for _, namespaces := range []bool{false, true} {
				o, name := o, name
				o.Wide, o.Namespaces = wide, namespaces
				if wide {
					name += "-wide"
				}
				if namespaces {
					name += "-all"
				}
				t.Run(name, func(t *testing.T) {
					var backups, restores bytes.Buffer
					if err := Backups(&backups, sampleBackups(), o); err != nil {
						t.Fatal(err)
					}
					if err := Restores(&restores, sampleRestores(), o); err != nil {
						t.Fatal(err)
					}
					golden(t, "backups-"+name+".txt", backups.Bytes())
					golden(t, "restores-"+name+".txt", restores.Bytes())
					if !wide {
						fitsIn(t, backups.String()+restores.String(), o)
					}
				})
			}
		}
	}
}
