// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/kubectl/pkg/cmd/get"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
)

// formatWide is -o wide.
const formatWide = "wide"

// output is the -o flag: the formats that kubectl has, and tables without it.
type output struct {
	format     string
	offersWide bool
	standard   *genericclioptions.PrintFlags
	columns    *get.CustomColumnsPrintFlags
	// printer is made by check and kept: it knows what it has printed before, such
	// as the titles of columns.
	printer printers.ResourcePrinter
}

func (o *output) addFlags(cmd *cobra.Command, wide bool) {
	o.offersWide = wide
	o.standard = genericclioptions.NewPrintFlags("")
	o.columns = get.NewCustomColumnsPrintFlags()
	formats := o.formats()
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "Output format. One of: ("+strings.Join(formats, ", ")+")")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	o.standard.TemplatePrinterFlags.AddFlags(cmd)
}

func (o *output) formats() []string {
	formats := append(o.standard.AllowedFormats(), o.columns.AllowedFormats()...)
	if o.offersWide {
		formats = append(formats, formatWide)
	}
	slices.Sort(formats)
	// Old names of go-template and go-template-file.
	formats = slices.DeleteFunc(formats, func(f string) bool { return f == "template" || f == "templatefile" })
	return slices.Compact(formats)
}

// wide reports whether all columns are wanted.
func (o *output) wide() bool { return o.offersWide && o.format == formatWide }

// human reports whether tables are wanted.
func (o *output) human() bool { return o.format == "" || o.wide() }

// check makes the printer, and so refuses an unknown format before anything is done.
func (o *output) check() error {
	if o.human() {
		return nil
	}
	var err error
	if strings.HasPrefix(o.format, "custom-columns") {
		o.printer, err = o.columns.ToPrinter(o.format)
	} else {
		o.standard.OutputFormat = &o.format
		o.printer, err = o.standard.ToPrinter()
	}
	switch {
	case err == nil:
		return nil
	case genericclioptions.IsNoCompatiblePrinterError(err):
		return invalid("output format %q is none of %s", o.format, strings.Join(o.formats(), ", "))
	}
	return invalid("%v", err)
}

// print writes an object or a slice of objects in the machine-readable format.
func (o *output) print(w io.Writer, v any) error {
	object, err := render.ToUnstructured(v)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return o.printer.PrintObj(object, w)
}
