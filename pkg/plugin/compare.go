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
func (o *restoreOptions) compare(plan *vmbackup.RestorePlan, from *origin, there *serverVersion, shared *vmbackup.Target, macs *macCheck) []vmbackup.Comparison {
	here := cmp.Or(from.versions, &serverVersion{})
	source := elsewhere{context: *o.config.Context, kubeconfig: *o.config.KubeConfig}
	name := "current context"
	if source.on() {
		name = source.String()
	}
	rows := []vmbackup.Comparison{
		{Subject: "Cluster", Source: name, Destination: o.elsewhere.String()},
		{Subject: "Kubernetes", Source: here.Kubernetes, Destination: there.Kubernetes},
		{Subject: "KubeVirt", Source: here.KubeVirt, Destination: there.KubeVirt, Note: olderNote(there.KubeVirt, here.KubeVirt)},
		{Subject: "Longhorn", Source: here.Longhorn, Destination: there.Longhorn, Note: olderNote(there.Longhorn, here.Longhorn)},
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
	rows = append(rows, compareNetworks(plan)...)
	rows = append(rows, compareQuotas(plan)...)
	return append(rows, macs.row(plan, from))
}

// compareNetworks is a row a network of the machine.
func compareNetworks(plan *vmbackup.RestorePlan) []vmbackup.Comparison {
	var rows []vmbackup.Comparison
	for _, n := range plan.Networks {
		row := vmbackup.Comparison{Subject: "Network", Source: n.Source, Destination: n.Destination}
		switch {
		case !n.Known:
			row.Note = "not seen: no right"
		case n.Source != n.Destination:
			row.Note = "mapped"
			if _, name, _ := strings.Cut(n.Source, "/"); strings.HasSuffix(n.Destination, "/"+name) {
				row.Note = "the same name"
			}
		}
		if !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
	}
	return rows
}

// compareQuotas is a row a limit of the destination's namespace that what is restored
// counts against.
func compareQuotas(plan *vmbackup.RestorePlan) []vmbackup.Comparison {
	rows := make([]vmbackup.Comparison, 0, len(plan.Quotas))
	for _, q := range plan.Quotas {
		rows = append(rows, vmbackup.Comparison{
			Subject: "Quota", Source: "needs " + q.Needs, Destination: fmt.Sprintf("%s of %s used", q.Used, q.Hard), Note: q.Resource,
		})
	}
	return rows
}

// macCheck is what machines of the destination have of the MAC addresses of the
// restored one.
type macCheck struct {
	// kept are the addresses that come back where nobody has them.
	kept []string
	// users are the machines that have one, by address; known says whether they could
	// be looked for.
	users map[string]vmbackup.Ref
	known bool
}

// row says what becomes of the addresses.
func (m *macCheck) row(plan *vmbackup.RestorePlan, from *origin) vmbackup.Comparison {
	row := vmbackup.Comparison{Subject: "MAC addresses", Source: "as backed up", Destination: "as backed up"}
	if plan.Request.MAC == vmbackup.MACNew {
		row.Destination = "new"
	}
	switch {
	case len(m.users) > 0:
		row.Note = "in use by " + m.names()
	case row.Destination == "new" && from.machine:
		row.Note = "the source machine is still there"
	case row.Destination != "new" && !m.known:
		row.Note = "others not seen: no right"
	}
	return row
}

func (m *macCheck) names() string {
	var names []string
	for _, mac := range slices.Sorted(maps.Keys(m.users)) {
		if name := m.users[mac].String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// warnings are about addresses that two machines will have, or would have had.
func (m *macCheck) warnings(policy vmbackup.MACPolicy) []string {
	switch {
	case len(m.users) == 0:
		return nil
	case policy == vmbackup.MACKeep:
		return []string{fmt.Sprintf("VirtualMachine %s there has the same MAC addresses (%s), which --mac keep keeps: let only one of the machines run on a network", m.names(), strings.Join(slices.Sorted(maps.Keys(m.users)), ", "))}
	}
	return []string{fmt.Sprintf("the restored machine gets new MAC addresses: VirtualMachine %s there has those of the backup (%s)", m.names(), strings.Join(slices.Sorted(maps.Keys(m.users)), ", "))}
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
			row := vmbackup.Comparison{Subject: "Backing image", Source: v.Image, Destination: v.Image, Note: madeNote(plan, "BackingImage", v.Image)}
			if row.Note != "" {
				row.Note = "to be brought back"
			}
			if !slices.Contains(rows, row) {
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
	// Longhorn 1.8.0 alone looks the source volume up (longhorn/longhorn#10366).
	if strings.TrimPrefix(there.Longhorn, "v") == "1.8.0" {
		list = append(list, "Longhorn 1.8.0 restores a backup only where its source volume still exists, which is never so in another cluster: update Longhorn to 1.8.1 or later first")
	}
	if f.versions == nil {
		return list
	}
	if older(there.KubeVirt, f.versions.KubeVirt) {
		list = append(list, fmt.Sprintf("KubeVirt there is %s, older than the %s of the backup's cluster: it may refuse, or drop, what the newer one has added to the machine's description", there.KubeVirt, f.versions.KubeVirt))
	}
	if older(there.Longhorn, f.versions.Longhorn) {
		list = append(list, fmt.Sprintf("Longhorn there is %s, older than the %s that made the backup: it does not promise to read what a newer one has written", there.Longhorn, f.versions.Longhorn))
	}
	return list
}

func olderNote(there, here string) string {
	if older(there, here) {
		return "older"
	}
	return ""
}

// older reports whether a version is before another one; of an unknown one it is not known.
func older(v, than string) bool {
	a, err := version.ParseGeneric(strings.TrimPrefix(v, "v"))
	if err != nil {
		return false
	}
	b, err := version.ParseGeneric(strings.TrimPrefix(than, "v"))
	return err == nil && a.LessThan(b)
}
