// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	testKeyID  = "AKIDEXAMPLE0000"
	testSecret = "wJalrXUtnFEMIexampleSecret"
)

// credentials are a Secret's data for an endpoint; pairs override and add.
func credentials(endpoint string, pairs ...string) map[string][]byte {
	c := map[string][]byte{
		"AWS_ACCESS_KEY_ID":     []byte(testKeyID),
		"AWS_SECRET_ACCESS_KEY": []byte(testSecret),
		"AWS_ENDPOINTS":         []byte(endpoint),
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		c[pairs[i]] = []byte(pairs[i+1])
	}
	return c
}

// s3At opens bucket bkt with the folder base at the server.
func s3At(t *testing.T, endpoint string, pairs ...string) target.Store {
	t.Helper()
	s, err := target.Open(target.Config{URL: "s3://bkt@eu-west-1/base/", Credentials: credentials(endpoint, pairs...)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// answer sends S3's error document.
func answer(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, message)
}

// calls are the five calls of a Store, each with key a.cfg.
func calls(ctx context.Context, s target.Store) map[string]error {
	_, getErr := s.Get(ctx, "a.cfg", 1<<10)
	_, statErr := s.Stat(ctx, "a.cfg")
	return map[string]error{
		"Get": getErr, "Stat": statErr,
		"Put":    s.Put(ctx, "a.cfg", []byte("x")),
		"Delete": s.Delete(ctx, "a.cfg"),
		"List":   s.List(ctx, "a", func(target.Object) error { return nil }),
	}
}

// checkError checks what the user is told: the reason, the server, a hint, and no secret.
func checkError(t *testing.T, call string, err error, reason vmbackup.Reason, endpoint string, words ...string) {
	t.Helper()
	if vmbackup.ReasonOf(err) != reason {
		t.Errorf("%s: %v (%s), want %s", call, err, vmbackup.ReasonOf(err), reason)
		return
	}
	told := fmt.Sprintf("%v %+v %s", err, errors.Unwrap(err), vmbackup.AsError(err, "").Hint)
	for _, secret := range []string{testSecret, testKeyID, "proxypass"} {
		if strings.Contains(told, secret) {
			t.Errorf("%s: %q repeats a secret", call, told)
		}
	}
	for _, word := range append(words, endpoint, "s3://bkt@eu-west-1/base/") {
		if !strings.Contains(told, word) {
			t.Errorf("%s: %q does not say %q", call, told, word)
		}
	}
	if vmbackup.AsError(err, "").Hint == "" {
		t.Errorf("%s: %q has no hint", call, told)
	}
}

func TestS3Errors(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		reason vmbackup.Reason
		words  []string
	}{
		{403, "AccessDenied", vmbackup.ReasonForbidden, []string{"bucket bkt"}},
		{403, "SignatureDoesNotMatch", vmbackup.ReasonForbidden, []string{"AWS_SECRET_ACCESS_KEY"}},
		{403, "InvalidAccessKeyId", vmbackup.ReasonForbidden, []string{"AWS_ACCESS_KEY_ID"}},
		{403, "RequestTimeTooSkewed", vmbackup.ReasonForbidden, []string{"clocks"}},
		{401, "Unauthorized", vmbackup.ReasonForbidden, nil},
		{404, "NoSuchBucket", vmbackup.ReasonTargetUnavailable, []string{"bucket bkt exists"}},
		{400, "AuthorizationHeaderMalformed", vmbackup.ReasonTargetUnavailable, []string{"region"}},
		{301, "PermanentRedirect", vmbackup.ReasonTargetUnavailable, []string{"region"}},
		{501, "NotImplemented", vmbackup.ReasonTargetUnavailable, nil},
		{409, "QuotaExceeded", vmbackup.ReasonTargetUnavailable, []string{"no room"}},
		{507, "InsufficientStorage", vmbackup.ReasonTargetUnavailable, []string{"no room"}},
		{507, "XMinioStorageFull", vmbackup.ReasonTargetUnavailable, []string{"no room"}},
	} {
		t.Run(test.code, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer(w, test.status, test.code, "sent "+r.Header.Get("Authorization")+" and "+testSecret)
			}))
			defer server.Close()
			for call, err := range calls(t.Context(), s3At(t, server.URL)) {
				words := test.words
				if call == "Stat" && test.code != "NoSuchBucket" {
					words = nil // an answer to HEAD has no body, and so no code
				}
				checkError(t, call, err, test.reason, server.URL, words...)
			}
		})
	}
}

// A server that knows no S3 must not make a backup look lost, or deleted.
func TestS3MissingIsNotGuessed(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for call, err := range calls(t.Context(), s3At(t, server.URL)) {
		checkError(t, call, err, vmbackup.ReasonTargetUnavailable, server.URL)
	}
}

func TestS3MissingIsConfirmedOnce(t *testing.T) {
	var lists, others atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("list-type") == "2" {
			lists.Add(1)
			fmt.Fprint(w, `<ListBucketResult><Name>bkt</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
			return
		}
		others.Add(1)
		answer(w, http.StatusNotFound, "NoSuchKey", "no such key")
	}))
	defer server.Close()
	s := s3At(t, server.URL)
	for range 3 {
		if _, err := s.Get(t.Context(), "a.cfg", 1); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("Get: %v, want NotFound", err)
		}
		if _, err := s.Stat(t.Context(), "a.cfg"); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("Stat: %v, want NotFound", err)
		}
		if err := s.Delete(t.Context(), "a.cfg"); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if lists.Load() != 1 || others.Load() != 9 {
		t.Errorf("%d listings and %d other requests, want 1 and 9", lists.Load(), others.Load())
	}
}

func TestS3Requests(t *testing.T) {
	for _, test := range []struct {
		name, style string
		path        string
	}{
		{"PathStyleWithEndpoint", "", "/bkt/base/a.cfg"},
		{"PathStyle", "false", "/bkt/base/a.cfg"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests = append(requests, r.Method+" "+r.URL.Path)
				if !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/s3/aws4_request") {
					t.Errorf("signed %q, want the region of the URL", r.Header.Get("Authorization"))
				}
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				w.Header().Set("ETag", `"x"`)
				fmt.Fprint(w, "hello")
			}))
			defer server.Close()
			s := s3At(t, server.URL, "VIRTUAL_HOSTED_STYLE", test.style)
			if got, err := s.Get(t.Context(), "a.cfg", 10); err != nil || string(got) != "hello" {
				t.Errorf("Get = %q, %v", got, err)
			}
			if err := s.Put(t.Context(), "a.cfg", []byte("x")); err != nil {
				t.Errorf("Put: %v", err)
			}
			if got, want := strings.Join(requests, ", "), "GET "+test.path+", PUT "+test.path; got != want {
				t.Errorf("requests %s, want %s", got, want)
			}
		})
	}
}

// Virtual-hosted names and http:// endpoints elsewhere go through the Secret's proxy.
func TestS3ProxyAndVirtualHost(t *testing.T) {
	var hosts sync.Map
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts.Store(r.URL.Host, r.Header.Get("Proxy-Authorization") != "")
		answer(w, http.StatusForbidden, "AccessDenied", "proxypass")
	}))
	defer proxy.Close()
	s := s3At(t, "http://s3.example.test", "VIRTUAL_HOSTED_STYLE", "true",
		"HTTP_PROXY", strings.Replace(proxy.URL, "http://", "http://user:proxypass@", 1))
	_, err := s.Get(t.Context(), "a.cfg", 10)
	checkError(t, "Get", err, vmbackup.ReasonForbidden, "http://s3.example.test")
	if authorized, found := hosts.Load("bkt.s3.example.test"); !found || authorized != true {
		t.Errorf("the proxy saw bkt.s3.example.test: %v, with credentials: %v", found, authorized)
	}
}

func TestS3Certificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		fmt.Fprint(w, "hello")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of every refused handshake
	server.StartTLS()
	defer server.Close()
	_, err := s3At(t, server.URL).Get(t.Context(), "a.cfg", 10)
	checkError(t, "Get", err, vmbackup.ReasonTargetUnavailable, server.URL, "AWS_CERT")
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if got, err := s3At(t, server.URL, "AWS_CERT", cert).Get(t.Context(), "a.cfg", 10); err != nil || string(got) != "hello" {
		t.Errorf("Get with the certificate = %q, %v", got, err)
	}
}

func TestS3Unreachable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	endpoint := server.URL
	server.Close()
	_, err := s3At(t, endpoint).Get(t.Context(), "a.cfg", 10)
	checkError(t, "Get", err, vmbackup.ReasonTargetUnavailable, endpoint, "refused")
}

func TestS3Retries(t *testing.T) {
	var requests atomic.Int32
	for _, test := range []struct {
		name     string
		failures int32
		reason   vmbackup.Reason
	}{
		{"Recovers", 2, ""},
		{"GivesUp", 1 << 20, vmbackup.ReasonTargetUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests.Store(0)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) <= test.failures {
					answer(w, http.StatusServiceUnavailable, "SlowDown", "slow down")
				}
			}))
			defer server.Close()
			err := s3At(t, server.URL).Put(t.Context(), "a.cfg", []byte("x"))
			if vmbackup.ReasonOf(err) != test.reason {
				t.Errorf("Put: %v, want %q", err, test.reason)
			}
			if got := requests.Load(); got > 4 {
				t.Errorf("%d requests, want no more than 4", got)
			}
		})
	}
}

// An answer that breaks off is asked for again, and never taken for the file.
func TestS3BrokenAnswer(t *testing.T) {
	for _, test := range []struct {
		name   string
		breaks int32
		reason vmbackup.Reason
	}{
		{"Recovers", 2, ""},
		{"GivesUp", 1 << 20, vmbackup.ReasonTargetUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				w.Header().Set("Content-Length", "5")
				fmt.Fprint(w, "hel")
				if requests.Add(1) <= test.breaks {
					panic(http.ErrAbortHandler)
				}
				fmt.Fprint(w, "lo")
			}))
			defer server.Close()
			got, err := s3At(t, server.URL).Get(t.Context(), "a.cfg", 10)
			if vmbackup.ReasonOf(err) != test.reason || err == nil && string(got) != "hello" {
				t.Errorf("Get = %q, %v; want reason %q", got, err, test.reason)
			}
		})
	}
}

// A server that says nothing of a file's length cannot make a reader take more than it wants.
func TestS3LimitWithoutLength(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		for range 10 {
			fmt.Fprint(w, strings.Repeat("x", 1<<10))
			w.(http.Flusher).Flush()
		}
	}))
	defer server.Close()
	got, err := s3At(t, server.URL).Get(t.Context(), "a.cfg", 1<<10)
	if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Errorf("Get = %d bytes, %v; want InvalidRequest", len(got), err)
	}
}

// A call ends with its context, in the middle of an answer too.
func TestS3Canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	defer server.Close()
	defer close(release)
	_, err := s3At(t, server.URL).Get(ctx, "a.cfg", 10)
	if vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled || !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v, want Canceled", err)
	}
}

// Folder markers and keys outside of the prefix are no files of the target; keys
// that cannot be read are told.
func TestS3ListTellsOddKeys(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("prefix"); got != "base/h/" {
			t.Errorf("prefix %q, want base/h/", got)
		}
		var contents string
		for _, key := range []string{"base/h/", "base/h/%2E%2E/x", "base/h//y", "base/h/a.cfg", "base/h/c%1B%5B31m%00", "other/h/b.cfg"} {
			contents += "<Contents><Key>" + key + "</Key><Size>1</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
		}
		fmt.Fprintf(w, "<ListBucketResult><Name>bkt</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>%s</ListBucketResult>", contents)
	}))
	defer server.Close()
	s := s3At(t, server.URL)
	var got []string
	err := s.List(t.Context(), "h/", func(o target.Object) error {
		got = append(got, o.Key)
		return nil
	})
	if want := []string{"h/../x", "h//y", "h/a.cfg", "h/c\x1b[31m\x00"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("List = %q, %v; want %q", got, err, want)
	}
	for _, key := range []string{"h/../x", "h//y", "h/c\x1b[31m\x00"} {
		if _, err := s.Get(t.Context(), key, 1); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
			t.Errorf("Get(%q): %v, want InvalidRequest", key, err)
		}
	}
}

// Whatever a server answers, a listing ends, takes little memory, and is empty only
// when an S3 server says so.
func TestS3HostileListings(t *testing.T) {
	page := func(token string) string {
		return "<ListBucketResult><Name>bkt</Name><IsTruncated>true</IsTruncated><NextContinuationToken>" + token + "</NextContinuationToken></ListBucketResult>"
	}
	var requests atomic.Int32
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter)
		says   string
	}{
		"GoesRound": {func(w http.ResponseWriter) { fmt.Fprint(w, page("again")) }, "does not end"},
		"NeverEnds": {func(w http.ResponseWriter) { fmt.Fprint(w, page(fmt.Sprint(requests.Add(1)))) }, "does not end"},
		"Page":      {func(w http.ResponseWriter) { fmt.Fprint(w, "<html><head></head><body>Sign in</body></html>") }, "no listing of S3"},
		"Text":      {func(w http.ResponseWriter) { fmt.Fprint(w, "Sign in") }, "no listing of S3"},
		"Nothing":   {func(http.ResponseWriter) {}, "no listing of S3"},
		"BreaksOff": {func(w http.ResponseWriter) { fmt.Fprint(w, "<ListBucketResult><Contents><Key>a") }, "EOF"},
		"NoBooleans": {func(w http.ResponseWriter) {
			fmt.Fprint(w, "<ListBucketResult><IsTruncated>x</IsTruncated></ListBucketResult>")
		}, "ParseBool"},
		"TooMuchText":  {func(w http.ResponseWriter) { fmt.Fprint(w, "<ListBucketResult><Name>"+strings.Repeat("n", 17<<20)) }, "bytes"},
		"OtherRequest": {func(w http.ResponseWriter) { fmt.Fprint(w, "<ListAllMyBucketsResult></ListAllMyBucketsResult>") }, "ListAllMyBucketsResult"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { test.answer(w) }))
			defer server.Close()
			err := s3At(t, server.URL).List(t.Context(), "h/", func(o target.Object) error {
				t.Errorf("listed %+v", o)
				return nil
			})
			checkError(t, "List", err, vmbackup.ReasonTargetUnavailable, server.URL, test.says)
		})
	}
}
