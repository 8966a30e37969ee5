// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var errEnough = errors.New("enough")

// watchedAnswers adds to a cluster what a watch of its lists reads.
func watchedAnswers() map[string]string {
	answers := restoringAnswers()
	answers[harvesterAPI] = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"harvesterhci.io/v1beta1","resources":[
		{"name":"virtualmachinebackups","namespaced":true,"kind":"VirtualMachineBackup","verbs":["list"]},
		{"name":"virtualmachinerestores","namespaced":true,"kind":"VirtualMachineRestore","verbs":["list"]}]}`
	answers[harvesterAPI+"/virtualmachinebackups"] = `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList","metadata":{"resourceVersion":"1"},"items":[` +
		harvesterBackup("a") + `,` + harvesterBackup("b") + `]}`
	return answers
}

// The lists are told once everything that the views rest on is known, beside the tool's own.
func TestListsOfHarvesterAreWatched(t *testing.T) {
	forbidden := func(path string) func(map[string]string) {
		return func(answers map[string]string) { answers[path] = "forbidden" }
	}
	for name, test := range map[string]struct {
		change            func(map[string]string)
		backups, restores []string
	}{
		"seen through": {
			backups:  []string{"demo/a Ready cluster", "demo/b Running cluster", "demo/own Ready cluster"},
			restores: []string{"demo/new Running 70%", "demo/old Ready 100%"},
		},
		"no Harvester": {
			change:  func(answers map[string]string) { delete(answers, harvesterAPI) },
			backups: []string{"demo/own Ready cluster"},
		},
		"no right to Harvester's": {
			change: func(answers map[string]string) {
				answers[harvesterAPI+"/virtualmachinebackups"], answers[restores] = "forbidden", "forbidden"
			},
			backups: []string{"demo/own Ready cluster"},
		},
		"no right to Longhorn's": {
			change:   forbidden(longhornAPI + "/backups"),
			backups:  []string{"demo/a Unknown cluster", "demo/b Unknown cluster", "demo/own Ready cluster"},
			restores: []string{"demo/new Running 70%", "demo/old Ready 100%"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			answers := watchedAnswers()
			if test.change != nil {
				test.change(answers)
			}
			foreign, _ := harvesterAt(t, answers)
			p := newPlace(t)
			p.inCluster(record("demo/own", "web", 1))
			c := p.catalog().With(foreign)
			var got []string
			err := c.WatchBackups(t.Context(), vmbackup.ListOptions{}, func(list []vmbackup.Backup) error {
				got = told(list)
				return errEnough
			})
			slices.Sort(got)
			if !errors.Is(err, errEnough) || !slices.Equal(got, test.backups) {
				t.Errorf("backups %q, %v; want %q", got, err, test.backups)
			}
			err = c.WatchRestores(t.Context(), vmbackup.ListOptions{}, func(list []vmbackup.Restore) error {
				got = toldRestores(list)
				return errEnough
			})
			slices.Sort(got)
			if !errors.Is(err, errEnough) || !slices.Equal(got, test.restores) {
				t.Errorf("restores %q, %v; want %q", got, err, test.restores)
			}
		})
	}
}
