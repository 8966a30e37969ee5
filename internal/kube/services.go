// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Service is a service in the cluster that is spoken to by HTTP.
type Service struct {
	Namespace, Name string
	Port            int
}

// Right is the right to post to the service through the API server.
func (s Service) Right() Right {
	return Right{Verb: "create", Resource: "services/proxy", Namespace: s.Namespace, Name: s.proxied()}
}

// proxied is the service's name in requests to the API server, and in resourceNames.
func (s Service) proxied() string { return fmt.Sprintf("http:%s:%d", s.Name, s.Port) }

func (s Service) String() string {
	return fmt.Sprintf("service %s/%s, port %d", s.Namespace, s.Name, s.Port)
}

// Services sends requests to services through the API server: the client needs no way
// into the cluster's network.
type Services interface {
	// Post sends a body, as it is read, to a path of a service. An error that the service
	// answers with is a *ServiceError.
	Post(ctx context.Context, to Service, path []string, query map[string]string, contentType string, body io.Reader) error
}

// ServiceError is what a service, or the API server in its place, has answered.
type ServiceError struct {
	Code    int
	Message string
	// Err is the API machinery's view of it.
	Err error
}

func (e *ServiceError) Error() string { return e.Message }
func (e *ServiceError) Unwrap() error { return e.Err }

// proxiedServices is Services over the proxy of kube-apiserver.
type proxiedServices struct{ rest rest.Interface }

func (p proxiedServices) Post(ctx context.Context, to Service, path []string, query map[string]string, contentType string, body io.Reader) error {
	request := p.rest.Post().Namespace(to.Namespace).Resource("services").
		Name(to.proxied()).SubResource("proxy").Suffix(path...).
		SetHeader("Content-Type", contentType).SetHeader("Accept", "application/json, */*").Body(body)
	for key, value := range query {
		request.Param(key, value)
	}
	answer, err := request.Do(ctx).Raw()
	var status apierrors.APIStatus
	if err == nil || ctx.Err() != nil || !errors.As(err, &status) {
		return err // nobody has answered
	}
	if details := status.Status().Details; len(answer) == 0 && details != nil {
		for _, cause := range details.Causes {
			if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
				answer = []byte(cause.Message) // what is no document is told there alone
			}
		}
	}
	return &ServiceError{Code: int(status.Status().Code), Message: messageOf(answer, err), Err: err}
}

// messageOf is what an answer says: in Kubernetes' form and in that of Rancher's API
// library, which Longhorn uses, it is a field of that name.
func messageOf(answer []byte, err error) string {
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer, &said) == nil && said.Message != "" {
		return Brief(said.Message)
	}
	text := strings.TrimSpace(string(answer))
	if strings.HasPrefix(text, "<") || strings.HasPrefix(text, "{") {
		text = "" // a page, or a document that says nothing to a reader
	}
	return Brief(cmp.Or(text, err.Error()))
}
