// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestAway(t *testing.T) {
	secrets := schema.GroupResource{Resource: "secrets"}
	webhook := func(why string) error {
		return apierrors.NewInternalError(errors.New(`failed calling webhook "validator.longhorn.io": failed to call webhook: Post "https://longhorn-admission-webhook": ` + why))
	}
	for name, tt := range map[string]struct {
		err  error
		away bool
	}{
		"nothing":            {nil, false},
		"refused":            {&url.Error{Op: "Get", URL: "https://127.0.0.1:1/api", Err: refused()}, true},
		"cut off":            {fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true},
		"closed":             {&url.Error{Op: "Post", URL: "https://127.0.0.1:1/api", Err: io.EOF}, true},
		"going away":         {errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1"), true},
		"connection lost":    {errors.New("http2: client connection lost"), true},
		"starting":           {apierrors.NewServiceUnavailable("starting"), true},
		"too many requests":  {apierrors.NewTooManyRequests("later", 1), true},
		"slow":               {apierrors.NewServerTimeout(secrets, "list", 1), true},
		"time-out":           {apierrors.NewTimeoutError("request did not complete", 1), true},
		"expired watch":      {apierrors.NewResourceExpired("too old resource version: 1 (2)"), true},
		"bad gateway":        {apierrors.NewGenericServerResponse(http.StatusBadGateway, "get", secrets, "web", "nothing behind it", 0, true), true},
		"etcd":               {apierrors.NewInternalError(errors.New("etcdserver: request timed out")), true},
		"leader":             {apierrors.NewInternalError(errors.New("etcdserver: leader changed")), true},
		"webhook is away":    {webhook("dial tcp 127.0.0.1:9502: connect: connection refused"), true},
		"webhook is wrong":   {webhook("x509: certificate signed by unknown authority"), false},
		"told already":       {kube.Error(apierrors.NewServiceUnavailable("starting"), "read", "Secret demo/web"), true},
		"of another meaning": {vmbackup.Errorf(vmbackup.ReasonFreezeFailed, "not frozen: %w", apierrors.NewServiceUnavailable("starting")), false},
		"missing":            {apierrors.NewNotFound(secrets, "web"), false},
		"forbidden":          {forbidden("list"), false},
		"conflict":           {apierrors.NewConflict(secrets, "web", errors.New("modified")), false},
		"crash":              {apierrors.NewInternalError(errors.New("boom")), false},
		"interrupt":          {&url.Error{Op: "Get", URL: "https://127.0.0.1:1/api", Err: context.Canceled}, false},
		"deadline":           {fmt.Errorf("get: %w", context.DeadlineExceeded), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := kube.Away(tt.err); got != tt.away {
				t.Errorf("%t: %v", got, tt.err)
			}
		})
	}
}

// A wait bears the outage; whoever listens hears of it, and of its end.
func TestOutcomesOfAWait(t *testing.T) {
	var asked atomic.Int64
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			if asked.Add(1) < 3 {
				return nil, apierrors.NewServiceUnavailable("starting")
			}
			return &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			return watch.NewFake(), nil
		},
	}
	heard := make(chan error, 16)
	ctx, cancel := context.WithTimeout(kube.WithOutcomes(t.Context(), func(err error) { heard <- err }), 30*time.Second)
	defer cancel()
	if err := kube.WatchAll(ctx, lw, "secrets", func([]*corev1.Secret) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	close(heard)
	var got []bool
	for err := range heard {
		got = append(got, kube.Away(err))
	}
	if fmt.Sprint(got) != "[true true false]" {
		t.Errorf("heard %v", got)
	}
}
