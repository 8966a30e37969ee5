// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Away reports whether err says that the API server, its store or a webhook that it
// must ask cannot work at the moment: no answer, a restart, too many requests, an
// expired watch. The same request may succeed in a while. Whether this one took
// effect is not known, so that only what observes before it acts may be repeated.
func Away(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	// What was given a meaning of its own is told as that.
	switch vmbackup.ReasonOf(err) {
	case vmbackup.ReasonEngineUnavailable, vmbackup.ReasonTimeout, vmbackup.ReasonInternal:
	default:
		return false
	}
	if status, ok := statusOf(err); ok {
		return apierrors.IsServerTimeout(err) || apierrors.IsResourceExpired(err) || awayCode(status.Code) || awayText(status.Message)
	}
	return unreachable(err) || utilnet.IsTimeout(err) || utilnet.IsHTTP2ConnectionLost(err) ||
		strings.Contains(err.Error(), "http2: server sent GOAWAY")
}

// awayCode are answers of an API server that is starting, stopping or overrun, and
// of a load balancer that finds none behind it.
func awayCode(code int32) bool {
	return slices.Contains([]int32{
		http.StatusGone, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}, code)
}

// awayText finds what the API server calls an internal error and is one of etcd's,
// which elects a leader or is slow, or a webhook's that does not answer.
func awayText(message string) bool {
	if strings.Contains(message, "etcdserver:") {
		return true
	}
	return strings.Contains(message, "failed calling webhook") && slices.ContainsFunc([]string{
		"connection refused", "connection reset", "EOF", "timeout", "deadline exceeded", "no endpoints available", "could not find the requested resource",
	}, func(why string) bool { return strings.Contains(message, why) })
}

type outcomesKey struct{}

// WithOutcomes returns a context whose waits call tell with the outcome of each of
// their requests, nil for one that was answered: a wait bears an API server that is
// away without a word. tell is called from several goroutines and must not block.
func WithOutcomes(ctx context.Context, tell func(error)) context.Context {
	return context.WithValue(ctx, outcomesKey{}, tell)
}

// outcomes is what WithOutcomes has set, or a function that does nothing.
func outcomes(ctx context.Context) func(error) {
	if tell, ok := ctx.Value(outcomesKey{}).(func(error)); ok {
		return tell
	}
	return func(error) {}
}
