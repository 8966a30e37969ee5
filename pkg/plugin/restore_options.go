// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// patchLimit is the largest patch that is read, in bytes: a virtual machine has at
// most 1.5 MiB in etcd.
const patchLimit = 1536 << 10

// addChanges adds the flags that say how the restored machine differs from the one
// that was backed up.
func (o *restoreOptions) addChanges(cmd *cobra.Command) {
	flags, r := cmd.Flags(), &o.request
	flags.BoolVar(&r.CreateNamespace, "create-namespace", false, "Make the namespace to restore into where it does not exist")
	flags.StringVar((*string)(&r.MAC), "mac", string(vmbackup.MACAuto),
		"What becomes of fixed MAC addresses: keep, new (KubeVirt gives others), or auto, which keeps them unless the source machine still exists beside the restored one, or in another cluster a machine has one of them")
	fixed(cmd, "mac", macPolicies()...)
	flags.StringVar((*string)(&r.Start), "start", string(vmbackup.StartAuto),
		"Whether the restored machine is started: yes, no, or auto, which goes by its run strategy in the backup")
	fixed(cmd, "start", startPolicies()...)
	flags.BoolVar(&r.NewIdentity, "new-identity", false,
		"Give the machine another hostname, firmware UUID and serial, and with them another cloud-init instance-id. A copy that runs beside its source needs it")
	flags.StringToStringVar(&r.StorageClasses, "map-storage-class", nil,
		"FROM=TO: volumes that had the StorageClass FROM come back with TO. May be given more than once, or with several pairs and commas between them")
	flags.StringToStringVar(&r.Networks, "map-network", nil,
		"FROM=TO: interfaces on the NetworkAttachmentDefinition FROM are put on TO, each [NAMESPACE/]NAME; 'pod' is the cluster's own network. May be given more than once")
	flags.StringVar(&o.patch, "patch", "",
		"File with a JSON patch (RFC 6902, in JSON or YAML) that is applied to the VirtualMachine after every other change; - for the standard input")
	flags.BoolVar(&r.AllowIncomplete, "allow-incomplete", false,
		"Restore what there is of a backup that is not whole. Volumes whose data is lost are left out of the machine, which is then not started by itself")
	must(cmd.RegisterFlagCompletionFunc("patch", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"json", "yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}))
}

// addInPlace adds the flags of a restore in place.
func (o *restoreOptions) addInPlace(flags *pflag.FlagSet) {
	r := &o.request
	flags.BoolVar(&r.InPlace, "in-place", false, "Give the machine that was backed up its disks and specification of then. It must still be the same machine, by its UID")
	flags.BoolVar(&r.Stop, "stop", false, "With --in-place: stop the machine where it runs, once the data of its new disks is there. Without it, one that runs is refused")
	flags.BoolVar(&r.DeleteOldVolumes, "delete-old-volumes", false, "With --in-place: delete the replaced volumes once the restored machine was seen running. Without it they are kept")
}

// macPolicies are the values of --mac.
func macPolicies() []string {
	return []string{string(vmbackup.MACAuto), string(vmbackup.MACKeep), string(vmbackup.MACNew)}
}

// startPolicies are the values of --start.
func startPolicies() []string {
	return []string{string(vmbackup.StartAuto), string(vmbackup.StartYes), string(vmbackup.StartNo)}
}

// validateChanges refuses wrong values and reads the patch, so that one that cannot
// be read is told before a cluster is asked.
func (o *restoreOptions) validateChanges() error {
	for _, f := range []struct {
		flag, value string
		values      []string
	}{{"mac", string(o.request.MAC), macPolicies()}, {"start", string(o.request.Start), startPolicies()}} {
		if !slices.Contains(f.values, f.value) {
			return invalid("--%s %q is none of %s", f.flag, f.value, strings.Join(f.values, ", "))
		}
	}
	if o.patch == "" {
		return nil
	}
	content, err := o.readPatch()
	if err != nil {
		return invalid("--patch %s: %v", o.patch, err)
	}
	// JSON is YAML too.
	if o.request.Patch, err = yaml.YAMLToJSON(content); err != nil {
		return invalid("--patch %s is neither JSON nor YAML: %v", o.patch, err)
	}
	return nil
}

// readPatch reads the file of the patch, or the standard input.
func (o *restoreOptions) readPatch() ([]byte, error) {
	in := o.streams.In
	if o.patch != "-" {
		file, err := os.Open(o.patch)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // it was read only
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, patchLimit+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > patchLimit:
		return nil, fmt.Errorf("more than %d bytes", patchLimit)
	case len(strings.TrimSpace(string(content))) == 0:
		return nil, fmt.Errorf("it is empty")
	}
	return content, nil
}
