// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestReadBackupTarget(t *testing.T) {
	target := func(spec, status string) string {
		return fmt.Sprintf(`{"apiVersion":"longhorn.io/v1beta2","kind":"BackupTarget","metadata":{"name":"default"},"spec":{%s},"status":{%s}}`, spec, status)
	}
	const url, available = `"backupTargetURL":"s3://b@r/"`, `"available":true`
	missing := func(what string) string {
		return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"%[1]s not found","details":{"name":"it","kind":%[1]q}}`, what)
	}
	for name, tc := range map[string]struct {
		target, secret string
		says           string
	}{
		"whole":               {target(url+`,"credentialSecret":"keys"`, available), `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"keys"},"data":{"AWS_ACCESS_KEY_ID":"YQ=="}}`, ""},
		"no credentials":      {target(url, available), "", ""},
		"none":                {missing("backuptargets"), "", `Longhorn has no backup target "default"`},
		"no URL":              {target(`"backupTargetURL":""`, available), "", "has no URL"},
		"not available":       {target(url, `"available":false,"conditions":[{"type":"Unavailable","status":"True","message":"NoSuchBucket"}]`), "", "NoSuchBucket"},
		"credentials missing": {target(url+`,"credentialSecret":"keys"`, available), missing("secrets"), "there is no Secret longhorn-system/keys"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := tc.target
				if strings.Contains(r.URL.Path, "/secrets/") {
					answer = tc.secret
				}
				w.Header().Set("Content-Type", "application/json")
				if strings.Contains(answer, `"code":404`) {
					w.WriteHeader(http.StatusNotFound)
				}
				_, _ = io.WriteString(w, answer)
			}))
			defer server.Close()
			clients, err := NewClients(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			got, err := clients.ReadBackupTarget(t.Context(), "default")
			if tc.says == "" {
				if err != nil || got.URL != "s3://b@r/" || (len(got.Credentials) > 0) != (tc.secret != "") {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			e := vmbackup.AsError(err, "none")
			if e == nil || e.Reason != vmbackup.ReasonTargetUnavailable || !strings.Contains(e.Message, tc.says) || e.Hint == "" {
				t.Errorf("%+v, not %q", e, tc.says)
			}
		})
	}
}
