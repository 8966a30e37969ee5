// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// What kubectl's printers make of the objects is what -o promises.
func TestPrinters(t *testing.T) {
	backup := sampleReady()
	backups, restores := sampleBackups()[2:4], sampleRestores()[:1]
	for _, test := range []struct {
		name, format string
		value        any
		want         string // "" for a golden file
	}{
		{"backup", "name", backup, "backup.vmbackup.io/web-20260802-120000\n"},
		{"backup", "name", &backup, "backup.vmbackup.io/web-20260802-120000\n"},
		{"list", "name", backups, "backup.vmbackup.io/web-20260802-120000\nbackup.vmbackup.io/mail-20260802-090000\n"},
		{"restores", "name", restores, "restore.vmbackup.io/db-20260802-152900\n"},
		{"list", "jsonpath={.items[*].status.volumes[*].sizeBytes}", backups, "42949672960 214748364800 10737418240"},
		{"backup", "jsonpath={.status.freezeSeconds} {.status.startedAt}", backup, "1.2 2026-08-02T12:00:00Z"},
		{"list", "go-template={{range .items}}{{.metadata.name}} {{.status.ready}}{{\"\\n\"}}{{end}}", backups, "web-20260802-120000 true\nmail-20260802-090000 false\n"},
		{"backup", "json", backup, ""},
		{"list", "yaml", backups, ""},
		{"restores", "json", restores, ""},
		{"empty", "json", []vmbackup.Backup{}, ""},
	} {
		flags := genericclioptions.NewPrintFlags("").WithDefaultOutput(test.format)
		printer, err := flags.ToPrinter()
		if err != nil {
			t.Fatalf("%s: %v", test.format, err)
		}
		object, err := ToUnstructured(test.value)
		if err != nil {
			t.Fatalf("%s: %v", test.format, err)
		}
		var out bytes.Buffer
		if err := printer.PrintObj(object, &out); err != nil {
			t.Fatalf("%s: %v", test.format, err)
		}
		if test.want == "" {
			golden(t, "object-"+test.name+"."+test.format, out.Bytes())
		} else if out.String() != test.want {
			t.Errorf("%s: %q, want %q", test.format, out.String(), test.want)
		}
	}
}

func TestNotAnObject(t *testing.T) {
	for _, v := range []any{nil, 1, vmbackup.Event{}, []string{"x"}, []any{make(chan int)}, vmbackup.Backup{}} {
		if o, err := ToUnstructured(v); err == nil {
			t.Errorf("%T became %v", v, o)
		}
	}
}
