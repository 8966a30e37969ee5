// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package component describes the parts of a sandbox instance (processes and
// one-time tasks), runs them in dependency order on observed readiness, and
// restarts the ones that end, as the real deployments would.
package component

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Role says what a component is, so that nobody takes a stand-in for the real thing.
type Role string

const (
	// Real is the upstream program, unmodified.
	Real Role = "real"
	// StandIn replaces a part that cannot run without a kernel or node of its own.
	StandIn Role = "stand-in"
	// Task runs once to success (objects to create, a state to wait for); it has no process.
	Task Role = "task"
)

// Component is one part of an instance. It is either a process (Path) or a
// task (Run), never both.
type Component struct {
	// Name is unique in an instance and names the log file, logs/<name>.log.
	Name string
	// Role is shown by "sandbox status".
	Role Role
	// About is one line for "sandbox status".
	About string
	// After names the components that must be ready before this one starts.
	After []string

	// Path is the absolute path of the program.
	Path string
	// Args are its arguments, without argv[0]. Never put a secret here; use Env.
	Args []string
	// Env is added to the environment that every component gets.
	Env []string
	// Dir is the working directory; empty is "/".
	Dir string
	// Prepare runs before every start; an error counts as a failed start.
	Prepare func(ctx context.Context) error
	// Ready returns nil once the process serves. It is called repeatedly until
	// then, each time with a deadline of a few seconds. Nil means: ready once started.
	Ready func(ctx context.Context) error

	// Run is the work of a Task. It must be idempotent: on an error it is
	// called again after a back-off.
	Run func(ctx context.Context) error
}

// Validate reports every mistake in a set of components: missing or doubled
// names, unknown or circular dependencies, neither or both of Path and Run.
func Validate(set []Component) error {
	var errs []error
	byName := map[string]Component{}
	for _, c := range set {
		switch {
		case c.Name == "":
			errs = append(errs, errors.New("component without a name"))
		case byName[c.Name].Name != "":
			errs = append(errs, fmt.Errorf("component %s is defined twice", c.Name))
		}
		if (c.Path == "") == (c.Run == nil) {
			errs = append(errs, fmt.Errorf("component %s needs exactly one of Path and Run", c.Name))
		}
		if (c.Role == Task) != (c.Run != nil) {
			errs = append(errs, fmt.Errorf("component %s: role %q does not fit", c.Name, c.Role))
		}
		byName[c.Name] = c
	}
	for _, c := range set {
		for _, dep := range c.After {
			if _, ok := byName[dep]; !ok {
				errs = append(errs, fmt.Errorf("component %s starts after the unknown component %s", c.Name, dep))
			}
		}
		if circle := findCircle(byName, c.Name, nil); circle != nil {
			errs = append(errs, fmt.Errorf("components wait for each other: %v", circle))
			break
		}
	}
	return errors.Join(errs...)
}

func findCircle(byName map[string]Component, name string, path []string) []string {
	if slices.Contains(path, name) {
		return append(path, name)
	}
	path = append(slices.Clone(path), name)
	for _, dep := range byName[name].After {
		if circle := findCircle(byName, dep, path); circle != nil {
			return circle
		}
	}
	return nil
}
