// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fixed is Records that has another record of one backup.
type fixed struct {
	Records
	record *metadata.Record
}

func (f fixed) Record(context.Context, vmbackup.Ref, vmbackup.Source) (*metadata.Record, error) {
	return f.record, nil
}

// What Harvester keeps is not deleted from under it.
func TestDeleteLeavesHarvestersBackups(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		record := c.record(b1)
		record.Backup.Status.Engine = vmbackup.EngineHarvester
		c.engine.records = fixed{c.engine.records, record}
		_, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		e := failure(t, err, vmbackup.ReasonConflict)
		if !e.Preflight || !strings.Contains(e.Hint, "kubectl delete virtualmachinebackups.harvesterhci.io "+b1.Name+" -n "+b1.Namespace) {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
	})
}

// A snapshot that Harvester keeps is for Harvester to restore.
func TestRestoreRefusesHarvestersSnapshots(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		b := vmbackup.NewBackup(b1)
		b.Spec = vmbackup.BackupSpec{VM: "web", Type: vmbackup.TypeSnapshot}
		b.Status.Phase, b.Status.Ready, b.Status.Engine = vmbackup.PhaseReady, true, vmbackup.EngineHarvester
		c.engine.records = fixed{c.engine.records, &metadata.Record{Backup: *b}}
		_, err := c.engine.PlanRestore(t.Context(), vmbackup.RestoreRequest{Backup: b1, From: vmbackup.SourceCluster, ToNamespace: "other"})
		e := failure(t, err, vmbackup.ReasonStorageUnsupported)
		if !e.Preflight || !strings.Contains(e.Hint, "--engine harvester") {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
	})
}

// Progress of what Harvester makes is in its own object.
func TestObserveLeavesHarvestersBackups(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		b := vmbackup.NewBackup(b1)
		b.Spec.Type, b.Status.Phase, b.Status.Engine = vmbackup.TypeBackup, vmbackup.PhaseRunning, vmbackup.EngineHarvester
		if err := c.engine.Observe(t.Context(), b); err != nil {
			t.Error(err)
		}
	})
}

// onHarvester is Lookup of a cluster that has Harvester's kinds.
type onHarvester struct{ kube.Lookup }

func (onHarvester) Serves(context.Context, schema.GroupVersionResource) (bool, error) {
	return true, nil
}

// Harvester starts a machine with the strategy of its annotation, whatever is asked for.
func TestStartPatch(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		patch := func() string {
			got, err := c.engine.startPatch(t.Context(), kubevirtv1.RunStrategyAlways)
			if err != nil {
				t.Fatal(err)
			}
			return string(got)
		}
		wantSame(t, "patch", patch(), `{"spec":{"runStrategy":"Always"}}`)
		clients := *c.engine.clients
		clients.Lookup = onHarvester{clients.Lookup}
		c.engine.clients = &clients
		wantSame(t, "patch on Harvester", patch(), `{"metadata":{"annotations":{"harvesterhci.io/vmRunStrategy":"Always"}},"spec":{"runStrategy":"Always"}}`)
	})
}
