// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Right is one verb on one resource; Resource may carry a subresource, as in
// virtualmachineinstances/freeze. The namespace is empty for cluster-wide objects.
type Right struct {
	Verb, Group, Resource, Namespace string
	// Name is of the one object that is meant; empty for all of them.
	Name string
}

// String is the right in words.
func (r Right) String() string {
	resource := r.Resource
	if r.Group != "" {
		name, sub, found := strings.Cut(resource, "/")
		if resource = name + "." + r.Group; found {
			resource += "/" + sub
		}
	}
	if r.Namespace == "" {
		return r.Verb + " " + resource + " (cluster-wide)"
	}
	return r.Verb + " " + resource + " in namespace " + r.Namespace
}

// MissingRights asks the API server which of the rights the user does not have:
// one request a namespace. Cluster-wide rights are looked for among those of the
// namespace given. An authorizer that cannot list its rules proves nothing, and then
// nothing is missing.
func (c *Clients) MissingRights(ctx context.Context, namespace string, wanted []Right) ([]Right, error) {
	namespaces := map[string][]Right{}
	for _, w := range wanted {
		// Cluster-wide rules are part of the answer for any namespace.
		ask := w.Namespace
		if ask == "" {
			if ask = namespace; ask == "" {
				ask = metav1.NamespaceDefault
			}
		}
		namespaces[ask] = append(namespaces[ask], w)
	}
	var (
		mu      sync.Mutex
		missing []Right
	)
	group, gctx := errgroup.WithContext(ctx)
	for ask, rights := range namespaces {
		group.Go(func() error {
			review, err := c.Core.AuthorizationV1().SelfSubjectRulesReviews().Create(gctx,
				&authv1.SelfSubjectRulesReview{Spec: authv1.SelfSubjectRulesReviewSpec{Namespace: ask}}, metav1.CreateOptions{})
			if err != nil {
				return Error(err, "ask for", "the user's rights in namespace "+ask)
			}
			if review.Status.Incomplete {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for _, w := range rights {
				if !slices.ContainsFunc(review.Status.ResourceRules, w.grantedBy) {
					missing = append(missing, w)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return missing, nil
}

// grantedBy reports whether a rule grants the right: on all objects of the resource, or
// on the one that is meant.
func (r Right) grantedBy(rule authv1.ResourceRule) bool {
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	named := len(rule.ResourceNames) == 0 || r.Name != "" && slices.Contains(rule.ResourceNames, r.Name)
	_, sub, _ := strings.Cut(r.Resource, "/")
	resource := has(rule.Resources, r.Resource) || sub != "" && slices.Contains(rule.Resources, "*/"+sub)
	return named && has(rule.Verbs, r.Verb) && has(rule.APIGroups, r.Group) && resource
}

// ForbiddenWithout is the error for missing rights, nil when none is missing.
func ForbiddenWithout(missing []Right, namespace string) error {
	if len(missing) == 0 {
		return nil
	}
	words := make([]string, len(missing))
	for i, m := range missing {
		words[i] = m.String()
	}
	slices.Sort(words)
	return vmbackup.Errorf(vmbackup.ReasonForbidden, "%s", fmt.Sprintf("this user may not: %s", strings.Join(words, "; "))).
		WithHint("ask for these rights; all that the tool needs is listed in its documentation (docs/rbac.md); check with: kubectl auth can-i --list -n %s", namespace)
}
