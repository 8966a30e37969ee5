// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// resources is a discovery document of the group with these resources.
func resources(names ...string) string {
	var list []string
	for _, name := range names {
		list = append(list, fmt.Sprintf(`{"name":%q,"namespaced":true,"kind":"X","verbs":["get"]}`, name))
	}
	return `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"harvesterhci.io/v1beta1","resources":[` + strings.Join(list, ",") + `]}`
}

func lease(holder string, renewed time.Time) string {
	return fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"harvester-controllers","namespace":"kube-system"},
		"spec":{"holderIdentity":%q,"leaseDurationSeconds":45,"renewTime":%q}}`, holder, renewed.UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
}

const version = `{"apiVersion":"harvesterhci.io/v1beta1","kind":"Setting","metadata":{"name":"server-version"},"default":"dev","value":"v1.8.2"}`

func TestDetect(t *testing.T) {
	const (
		group   = "GET /apis/harvesterhci.io/v1beta1"
		leaseAt = "GET " + leasePath
		setting = "GET " + root + "settings/server-version"
	)
	now := time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC)
	both := resources("settings", BackupResource, RestoreResource)
	forbidden := status(http.StatusForbidden, metav1.StatusReasonForbidden)
	for name, test := range map[string]struct {
		answers map[string]string
		// after replaces answers while the lease is observed.
		after   map[string]string
		want    Presence
		pauses  int
		wantErr string
	}{
		"no Harvester": {
			want: Presence{Controllers: Unclear},
		},
		"its settings alone": {
			answers: map[string]string{group: resources("settings")},
			want:    Presence{Controllers: Unclear},
		},
		"controllers run": {
			answers: map[string]string{group: both, leaseAt: lease("node1", now.Add(-2*time.Second)), setting: version},
			want:    Presence{Served: true, Controllers: Alive, Why: "held by node1", Version: "v1.8.2"},
		},
		"the cluster's clock is ahead": {
			answers: map[string]string{group: both, leaseAt: lease("node1", now.Add(time.Hour)), setting: version},
			want:    Presence{Served: true, Controllers: Alive, Why: "held by node1", Version: "v1.8.2"},
		},
		"the cluster's clock is behind": {
			answers: map[string]string{group: both, leaseAt: lease("node1", now.Add(-time.Hour)), setting: version},
			after:   map[string]string{leaseAt: lease("node1", now.Add(2*time.Second-time.Hour))},
			want:    Presence{Served: true, Controllers: Alive, Why: "held by node1", Version: "v1.8.2"},
			pauses:  1,
		},
		"a new leader comes up": {
			answers: map[string]string{group: both, leaseAt: lease("", now.Add(-time.Hour)), setting: version},
			after:   map[string]string{leaseAt: lease("node2", now)},
			want:    Presence{Served: true, Controllers: Alive, Why: "held by node2", Version: "v1.8.2"},
			pauses:  1,
		},
		"controllers died": {
			answers: map[string]string{group: both, leaseAt: lease("node1", now.Add(-time.Hour)), setting: version},
			want:    Presence{Served: true, Controllers: Dead, Why: "the lease of node1 was renewed last at 2026-11-26T01:00:00Z", Version: "v1.8.2"},
			pauses:  7,
		},
		"controllers were scaled down": {
			answers: map[string]string{group: both, leaseAt: lease("", now.Add(-time.Second)), setting: version},
			want:    Presence{Served: true, Controllers: Dead, Why: "nobody holds the lease kube-system/harvester-controllers", Version: "v1.8.2"},
			pauses:  7,
		},
		"a user of a project": {
			answers: map[string]string{group: both, leaseAt: forbidden, setting: forbidden},
			want:    Presence{Served: true, Controllers: Unclear, Why: "the lease kube-system/harvester-controllers may not be read"},
		},
		"never started": {
			answers: map[string]string{group: both},
			want:    Presence{Served: true, Controllers: Unclear, Why: "there is no lease kube-system/harvester-controllers"},
		},
		"the API server fails": {
			answers: map[string]string{group: status(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
			wantErr: "ask which kinds of harvesterhci.io/v1beta1 the cluster serves",
		},
		"the lease cannot be read": {
			answers: map[string]string{group: both, leaseAt: status(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
			wantErr: "read the lease kube-system/harvester-controllers",
		},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]string{}
			for key, answer := range test.answers {
				answers[key] = answer
			}
			config, server := serve(t, answers)
			client, err := NewClient(config, http.DefaultClient)
			if err != nil {
				t.Fatal(err)
			}
			disco, err := discovery.NewDiscoveryClientForConfigAndClient(config, http.DefaultClient)
			if err != nil {
				t.Fatal(err)
			}
			pauses := 0
			d := &Detector{
				Discovery: disco, Settings: client.Settings(), Now: func() time.Time { return now },
				Pause: func(context.Context, time.Duration) error {
					pauses++
					for key, answer := range test.after {
						server.by[key] = answer
					}
					return nil
				},
			}
			got, err := d.Detect(t.Context())
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("error %v, want %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if *got != test.want || pauses != test.pauses {
				t.Errorf("got %+v after %d pauses, want %+v after %d", *got, pauses, test.want, test.pauses)
			}
		})
	}
}

func TestDetectEndsWithItsContext(t *testing.T) {
	config, _ := serve(t, map[string]string{
		"GET /apis/harvesterhci.io/v1beta1": resources(BackupResource, RestoreResource),
		"GET " + leasePath:                  lease("", time.Time{}),
	})
	disco, err := discovery.NewDiscoveryClientForConfigAndClient(config, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	d := &Detector{Discovery: disco, Now: time.Now, Pause: func(context.Context, time.Duration) error { return context.Canceled }}
	if got, err := d.Detect(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestUsable(t *testing.T) {
	for _, test := range []struct {
		presence Presence
		want     bool
	}{
		{Presence{Controllers: Alive}, false},
		{Presence{Served: true, Controllers: Alive}, true},
		{Presence{Served: true, Controllers: Unclear}, true},
		{Presence{Served: true, Controllers: Dead}, false},
	} {
		if got := test.presence.Usable(); got != test.want {
			t.Errorf("%+v: %v", test.presence, got)
		}
	}
}
