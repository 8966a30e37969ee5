// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubevirt brings KubeVirt into a sandbox instance.
//
// Real, unmodified and of the pinned release (sandbox/modules/kubevirt):
//
//   - virt-api with all its validating and mutating webhooks and the aggregated
//     subresource API (start, stop, restart, pause, freeze, unfreeze, addvolume,
//     guestosinfo, ...), called by kube-apiserver over TLS;
//   - virt-controller with its controllers of VMs, VMIs, instance types,
//     snapshots, restores, exports and clones;
//   - all custom resource definitions, roles and webhook configurations, printed
//     by KubeVirt's own generators (kubevirt-manifests) instead of its operator.
//     Webhooks call virt-api by URL, and the API service reaches it through a
//     Service of type ExternalName, as there is no cluster network.
//
// Stand-ins (packages below sandbox/internal/standin: virthandler, guest, importer):
//
//   - virt-handler and virt-launcher: the node's heartbeat, the phases and
//     conditions of a VMI from Scheduled on, hot-plugged volumes, and the
//     endpoints that virt-api calls;
//
//   - the guest: nothing is executed. It attaches the Longhorn volumes of its
//     PVCs for as long as it runs, keeps whether it is frozen, thaws at the
//     deadline, refuses writes while frozen, and records every freeze.
//     Annotations of the VM's template give it faults: sandbox.vmbackup.io/guest-agent
//     "absent"; .../freeze "fail", "hang" or "lost-answer"; .../thaw "fail";
//     .../shutdown "ignore".
//
//   - the containerized data importer (package .../importer): PVCs of DataVolumes
//     that are blank or come from a VolumeSnapshot. Its kinds accept every field.
//
// Absent: the operator, migration, consoles, export servers, Multus (its kind
// exists, so that VMs can name secondary networks), and every import by download.
package kubevirt
