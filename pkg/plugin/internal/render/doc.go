// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package render turns the domain's objects and events into what people and
// scripts read: tables, trees, plans, errors, live progress and the objects
// behind -o json.
//
// Nothing here asks the environment by itself: a Terminal is made once, from a
// writer and the facts about it, and everything else follows from Options.
package render
