// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// The API server answers a refusal with a Status; every call on machines passes its text on.
func TestVirtualMachinesTellWhyTheyAreRefused(t *testing.T) {
	const why = `virtualmachines.kubevirt.io "web" is forbidden: User "ann" cannot get resource "virtualmachines" in API group "kubevirt.io" in the namespace "demo"`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		text := strings.ReplaceAll(why, `"`, `\"`)
		if _, err := io.WriteString(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"`+text+`","reason":"Forbidden","code":403}`); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	clients, err := kube.NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, get := clients.VMs.Get(t.Context(), "demo", "web")
	_, create := clients.VMs.Create(t.Context(), "demo", []byte(`{}`), true)
	for call, err := range map[string]error{
		"get": get, "create": create,
		"patch":    clients.VMs.Patch(t.Context(), "demo", "web", []byte(`{}`)),
		"unfreeze": clients.VMs.Unfreeze(t.Context(), "demo", "web"),
	} {
		told := vmbackup.AsError(kube.Error(err, call, "VirtualMachine demo/web"), vmbackup.ReasonInternal)
		if told == nil || told.Reason != vmbackup.ReasonForbidden || !strings.Contains(told.Message, why) || !strings.Contains(told.Hint, "get virtualmachines.kubevirt.io in namespace demo") {
			t.Errorf("%s: %+v", call, told)
		}
	}
}
