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

// output is the -o flag: the formats that kubectl has, and tables without it.
type output struct {
	format   string
	wide     bool // -o wide is offered
	standard *genericclioptions.PrintFlags
	columns  *get.CustomColumnsPrintFlags
}

func (o *output) addFlags(cmd *cobra.Command, wide bool) {
	o.wide = wide
	o.standard = genericclioptions.NewPrintFlags("")
	o.columns = get.NewCustomColumnsPrintFlags()
	formats := o.formats()
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "Output format: "+strings.Join(formats, "|"))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	o.standard.TemplatePrinterFlags.AddFlags(cmd)
}

func (o *output) formats() []string {
	formats := append(o.standard.AllowedFormats(), o.columns.AllowedFormats()...)
	if o.wide {
		formats = append(formats, "wide")
	}
	slices.Sort(formats)
	return slices.Compact(formats)
}

// human reports whether tables are wanted.
func (o *output) human() bool { return o.format == "" || o.wide && o.format == "wide" }

// printer is the printer of a machine-readable format.
func (o *output) printer() (printers.ResourcePrinter, error) {
	if strings.HasPrefix(o.format, "custom-columns") {
		p, err := o.columns.ToPrinter(o.format)
		if err != nil {
			return nil, invalid("%v", err)
		}
		return p, nil
	}
	o.standard.OutputFormat = &o.format
	p, err := o.standard.ToPrinter()
	if err != nil {
		if genericclioptions.IsNoCompatiblePrinterError(err) {
			return nil, invalid("output format %q is none of %s", o.format, strings.Join(o.formats(), ", "))
		}
		return nil, invalid("%v", err)
	}
	return p, nil
}

// check refuses an unknown format before anything is done.
func (o *output) check() error {
	if o.human() {
		return nil
	}
	_, err := o.printer()
	return err
}

// print writes an object or a slice of objects in the machine-readable format.
func (o *output) print(w io.Writer, v any) error {
	p, err := o.printer()
	if err != nil {
		return err
	}
	object, err := render.ToUnstructured(v)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return p.PrintObj(object, w)
}
