// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Longhorn's settings that its replica scheduler goes by (longhorn-manager,
// types/setting.go), with the values that they have where they are not set.
const (
	settingOverProvisioning = "storage-over-provisioning-percentage"
	settingMinimalAvailable = "storage-minimal-available-percentage"
	settingReplicas         = "default-replica-count"
	settingNodeSoftAffinity = "replica-soft-anti-affinity"
	settingDegraded         = "allow-volume-creation-with-degraded-availability"
)

// findNodes reads Longhorn's nodes with their disks.
func (e *Engine) findNodes(ctx context.Context) ([]longhornv1.Node, error) {
	list, err := e.clients.Longhorn.LonghornV1beta2().Nodes(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(unknown(err), "list", "Nodes of Longhorn")
	}
	return list.Items, nil
}

// findSettings reads Longhorn's settings.
func (e *Engine) findSettings(ctx context.Context) (map[string]string, error) {
	list, err := e.clients.Longhorn.LonghornV1beta2().Settings(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(unknown(err), "list", "Settings of Longhorn")
	}
	settings := make(map[string]string, len(list.Items))
	for _, s := range list.Items {
		settings[s.Name] = s.Value
	}
	return settings, nil
}

// number is a setting as Longhorn writes it: plain, or one number a data engine.
func (d *destination) number(setting string, otherwise int64) int64 {
	value := d.settings[setting]
	engines := map[string]string{}
	if json.Unmarshal([]byte(value), &engines) == nil {
		value = engines[string(longhornv1.DataEngineTypeV1)]
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return n
	}
	return otherwise
}

func (d *destination) enabled(setting string, otherwise bool) bool {
	if on, err := strconv.ParseBool(d.settings[setting]); err == nil {
		return on
	}
	return otherwise
}

// room is what one disk still takes.
type room struct {
	node, disk string
	tags       []string
	nodeTags   []string
	// schedulable is what Longhorn may still promise on the disk, in bytes.
	schedulable int64
}

// rooms are the disks that Longhorn's scheduler would put a new replica on
// (longhorn-manager, scheduler/replica_scheduler.go, IsSchedulableToDisk).
func (d *destination) rooms() []room {
	over, minimal := d.number(settingOverProvisioning, 100), d.number(settingMinimalAvailable, 25)
	var rooms []room
	for _, n := range d.nodes {
		if n.DeletionTimestamp != nil || !n.Spec.AllowScheduling ||
			!holds(n.Status.Conditions, longhornv1.NodeConditionTypeReady) || !holds(n.Status.Conditions, longhornv1.NodeConditionTypeSchedulable) {
			continue
		}
		for name, spec := range n.Spec.Disks {
			status := n.Status.DiskStatus[name]
			if status == nil || !spec.AllowScheduling || spec.EvictionRequested || spec.Type == longhornv1.DiskTypeBlock ||
				!holds(status.Conditions, longhornv1.DiskConditionTypeSchedulable) {
				continue
			}
			if status.StorageAvailable <= status.StorageMaximum*minimal/100 {
				continue // the disk itself is full, whatever is promised on it
			}
			rooms = append(rooms, room{
				node: n.Name, disk: name, tags: spec.Tags, nodeTags: n.Spec.Tags,
				schedulable: (status.StorageMaximum-spec.StorageReserved)*over/100 - status.StorageScheduled,
			})
		}
	}
	return rooms
}

func holds(conditions []longhornv1.Condition, kind string) bool {
	return slices.ContainsFunc(conditions, func(c longhornv1.Condition) bool { return c.Type == kind && c.Status == longhornv1.ConditionStatusTrue })
}

// checkCapacity lays the replicas of the volumes on Longhorn's disks as its
// scheduler would. A volume of which not one replica fits anywhere would wait for
// ever, and is refused; one that lacks some is a warning, as it is for Longhorn.
// Nothing is said where the nodes cannot be read.
func (d *destination) checkCapacity(volumes []vmbackup.RestoreVolume) (warnings []string, err error) {
	if len(d.nodes) == 0 || len(volumes) == 0 {
		return nil, nil
	}
	rooms := d.rooms()
	volumes = slices.SortedFunc(slices.Values(volumes), func(a, b vmbackup.RestoreVolume) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Name, b.Name))
	})
	degraded := d.enabled(settingDegraded, true)
	for _, v := range volumes {
		class := d.classes[v.StorageClass]
		if class == nil {
			continue
		}
		want := d.replicas(class)
		got := d.lay(rooms, class, v.SizeBytes, want)
		switch {
		case got >= want:
		case got > 0 && degraded:
			warnings = append(warnings, fmt.Sprintf("Longhorn has room for %d of the %d replicas of volume %s (%s each): it will be degraded until there is more", got, want, v.Name, quantity(v.SizeBytes)))
		default:
			return nil, vmbackup.Errorf(vmbackup.ReasonQuotaExceeded, "Longhorn has no room for volume %s: %d of %d replicas of %s fit on its disks (%s)", v.Name, got, want, quantity(v.SizeBytes), describeRooms(rooms)).
				WithHint("add a disk, free space, raise Longhorn's setting %s, or map the volume to a StorageClass with fewer replicas or other disks: --map-storage-class %s=CLASS", settingOverProvisioning, v.StorageClass)
		}
	}
	return warnings, nil
}

// replicas is how many replicas a class gives its volumes.
func (d *destination) replicas(class *storagev1.StorageClass) int {
	if n, err := strconv.Atoi(class.Parameters[parameterReplicas]); err == nil && n > 0 {
		return n
	}
	return int(d.number(settingReplicas, 3))
}

// lay takes the room for a volume's replicas, the emptiest disk first and no two on
// one node, and says how many have found one.
func (d *destination) lay(rooms []room, class *storagev1.StorageClass, size int64, replicas int) int {
	used := map[string]bool{}
	laid := 0
	for range replicas {
		best := -1
		for i, r := range rooms {
			fits := r.schedulable >= size && (!used[r.node] || d.enabled(settingNodeSoftAffinity, false)) &&
				selects(class.Parameters["diskSelector"], r.tags) && selects(class.Parameters["nodeSelector"], r.nodeTags)
			if fits && (best < 0 || r.schedulable > rooms[best].schedulable) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		rooms[best].schedulable -= size
		used[rooms[best].node] = true
		laid++
	}
	return laid
}

// selects reports whether a disk or node has all the tags that a class asks for.
func selects(selector string, tags []string) bool {
	for tag := range strings.SplitSeq(selector, ",") {
		if tag != "" && !slices.Contains(tags, tag) {
			return false
		}
	}
	return true
}

// describeRooms tells what is left on the disks that take replicas.
func describeRooms(rooms []room) string {
	if len(rooms) == 0 {
		return "none of them takes replicas"
	}
	parts := make([]string, len(rooms))
	for i, r := range rooms {
		parts[i] = fmt.Sprintf("%s/%s has %s", r.node, r.disk, quantity(max(r.schedulable, 0)))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// quantity writes a number of bytes as Kubernetes does.
func quantity(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
