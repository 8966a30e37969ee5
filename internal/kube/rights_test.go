// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	authv1 "k8s.io/api/authorization/v1"
)

func TestGrantedBy(t *testing.T) {
	r := Right{Verb: "create", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots", Namespace: "demo"}
	rule := func(verb, group, resource string, names ...string) authv1.ResourceRule {
		return authv1.ResourceRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
	}
	for _, tc := range []struct {
		rule authv1.ResourceRule
		want bool
	}{
		{rule("create", "snapshot.storage.k8s.io", "volumesnapshots"), true},
		{rule("*", "*", "*"), true},
		{rule("get", "snapshot.storage.k8s.io", "volumesnapshots"), false},
		{rule("create", "", "volumesnapshots"), false},
		{rule("create", "snapshot.storage.k8s.io", "volumesnapshotcontents"), false},
		{rule("create", "snapshot.storage.k8s.io", "volumesnapshots", "one"), false},
	} {
		if got := r.grantedBy(tc.rule); got != tc.want {
			t.Errorf("%+v: %t", tc.rule, got)
		}
	}
	one := Right{Verb: "create", Resource: "services/proxy", Namespace: "demo", Name: "http:web:80"}
	for _, tc := range []struct {
		rule authv1.ResourceRule
		want bool
	}{
		{rule("create", "", "services/proxy", "http:web:80"), true},
		{rule("create", "", "services/proxy", "http:other:80"), false},
		{rule("create", "", "services/proxy"), true},
		{rule("create", "", "*/proxy"), true},
		{rule("create", "", "services"), false},
	} {
		if got := one.grantedBy(tc.rule); got != tc.want {
			t.Errorf("%+v: %t", tc.rule, got)
		}
	}
}

func TestRightsInWords(t *testing.T) {
	for want, r := range map[string]Right{
		"create secrets in namespace demo":                                                 {"create", "", "secrets", "demo", ""},
		"delete volumesnapshotcontents.snapshot.storage.k8s.io (cluster-wide)":             {"delete", "snapshot.storage.k8s.io", "volumesnapshotcontents", "", ""},
		"update virtualmachineinstances.subresources.kubevirt.io/freeze in namespace demo": {"update", "subresources.kubevirt.io", "virtualmachineinstances/freeze", "demo", ""},
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
