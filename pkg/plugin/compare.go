// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// compare sets the two clusters of a restore side by side.
func (o *restoreOptions) compare(plan *vmbackup.RestorePlan, from *origin, there *serverVersion, shared *vmbackup.Target) []vmbackup.Comparison {
	here := cmp.Or(from.versions, &serverVersion{})
	source := elsewhere{context: *o.config.Context, kubeconfig: *o.config.KubeConfig}
	name := "current context"
	if source.on() {
		name = source.String()
	}
	rows := []vmbackup.Comparison{
		{Subject: "Cluster", Source: name, Destination: o.elsewhere.String()},
		{Subject: "Kubernetes", Source: here.Kubernetes, Destination: there.Kubernetes},
		{Subject: "KubeVirt", Source: here.KubeVirt, Destination: there.KubeVirt},
		{Subject: "Longhorn", Source: here.Longhorn, Destination: there.Longhorn},
	}
	if here.Harvester != nil || there.Harvester != nil {
		rows = append(rows, vmbackup.Comparison{Subject: "Harvester", Source: here.Harvester.String(), Destination: there.Harvester.String()})
	}
	if from.silent != nil {
		rows[0].Note = "the source does not answer, and is not needed"
	}
	target := vmbackup.Comparison{Subject: "Backup target", Destination: shared.Metadata.Name + " (" + shared.Spec.URL + ")"}
	if from.target != nil {
		target.Source = from.target.Metadata.Name + " (" + from.target.Spec.URL + ")"
	}
	spec := plan.Restore.Spec
	rows = append(rows, target,
		vmbackup.Comparison{Subject: "Namespace", Source: plan.Request.Backup.Namespace, Destination: spec.TargetNamespace, Note: madeNote(plan, "Namespace", spec.TargetNamespace)},
		vmbackup.Comparison{Subject: "VirtualMachine", Source: plan.Backup.Spec.VM, Destination: spec.TargetName})
	rows = append(rows, compareClasses(plan)...)
	for _, network := range slices.Sorted(maps.Keys(plan.Request.Networks)) {
		rows = append(rows, vmbackup.Comparison{Subject: "Network", Source: network, Destination: plan.Request.Networks[network], Note: "mapped"})
	}
	mac := vmbackup.Comparison{Subject: "MAC addresses", Source: "as backed up", Destination: "as backed up"}
	if plan.Request.MAC == vmbackup.MACNew {
		mac.Destination = "new"
		if from.machine {
			mac.Note = "the source machine is still there"
		}
	}
	return append(rows, mac)
}

// compareClasses is a row a StorageClass of the backup.
func compareClasses(plan *vmbackup.RestorePlan) []vmbackup.Comparison {
	var rows []vmbackup.Comparison
	for _, v := range plan.Backup.Status.Volumes {
		i := slices.IndexFunc(plan.Restore.Status.Volumes, func(r vmbackup.RestoreVolume) bool { return r.Name == v.Name })
		if i < 0 {
			continue // it is left out
		}
		to := plan.Restore.Status.Volumes[i].StorageClass
		row := vmbackup.Comparison{Subject: "StorageClass", Source: v.StorageClass, Destination: to, Note: madeNote(plan, "StorageClass", to)}
		if row.Note == "" && row.Source != row.Destination {
			row.Note = "mapped"
		}
		if !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
		if v.Image != "" {
			if row := (vmbackup.Comparison{Subject: "Backing image", Source: v.Image, Destination: v.Image}); !slices.Contains(rows, row) {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// madeNote says whether the plan makes an object.
func madeNote(plan *vmbackup.RestorePlan, kind, name string) string {
	if slices.ContainsFunc(plan.Objects, func(o vmbackup.PlannedObject) bool {
		return o.Action == vmbackup.ActionCreate && o.Kind == kind && o.Name == name
	}) {
		return "to be made"
	}
	return ""
}

// String is the version, and whether its controllers work.
func (v *harvesterVersion) String() string {
	if v == nil {
		return "none"
	}
	return fmt.Sprintf("%s, controllers %s", cmp.Or(v.Version, "unknown version"), v.Controllers)
}

// warnings are what of the two clusters' versions may break the restore.
func (f *origin) warnings(there *serverVersion) []string {
	var list []string
	if f.silent != nil {
		list = append(list, "the cluster of the backup does not answer ("+kube.Brief(f.silent.Error())+"): whether its machine still runs, with the same MAC addresses, is not known")
	}
	destination, err := version.ParseGeneric(strings.TrimPrefix(there.Longhorn, "v"))
	if err != nil {
		return list
	}
	// Longhorn 1.8.0 alone looks the source volume up (longhorn/longhorn#10366).
	if destination.EqualTo(version.MustParseGeneric("1.8.0")) {
		list = append(list, "Longhorn 1.8.0 restores a backup only where its source volume still exists, which is never so in another cluster: update Longhorn to 1.8.1 or later first")
	}
	if f.versions == nil {
		return list
	}
	if source, err := version.ParseGeneric(strings.TrimPrefix(f.versions.Longhorn, "v")); err == nil && destination.LessThan(source) {
		list = append(list, fmt.Sprintf("Longhorn there is %s, older than the %s that made the backup: it does not promise to read what a newer one has written", there.Longhorn, f.versions.Longhorn))
	}
	return list
}
