// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package clidoc

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "tool", Long: "Tool does things:\n    1  one\n    2  two\n\nAnd no more."}
	root.PersistentFlags().String("cache", "/somewhere/me/.cache", "folder of the cache")
	create := &cobra.Command{
		Use: "create THING", Short: "Make a thing", Aliases: []string{"new"}, Run: run,
		Example: "    # one\n    tool create x\n",
	}
	create.Flags().Bool("quick", false, "hurry")
	hidden := &cobra.Command{Use: "secret", Short: "Not shown", Hidden: true, Run: run}
	list := &cobra.Command{Use: "list", Short: "List things", Run: run}
	list.AddCommand(&cobra.Command{Use: "old", Short: "VM things of old", Run: run})
	root.AddCommand(create, hidden, list)
	return root
}

func TestRenderShowsTheWholeTreeOnce(t *testing.T) {
	page := Render(tree(), "/somewhere/me")
	for _, want := range []string{
		"# Command line\n\nTool does things:\n\n```text\n1  one\n2  two\n```\n\nAnd no more.\n",
		"- [`tool create`](#tool-create): make a thing\n",
		"- [`tool list old`](#tool-list-old): VM things of old\n",
		"## tool create\n\nMake a thing\n\n```console\ntool create THING [flags]\n```\n\nAliases: `new`\n",
		"```console\n# one\ntool create x\n```\n",
		"    --quick   hurry\n",
		"--cache string   folder of the cache (default \"$HOME/.cache\")\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	for _, unwanted := range []string{"secret", "/somewhere/me", "tool help"} {
		if strings.Contains(page, unwanted) {
			t.Errorf("page shows %q", unwanted)
		}
	}
	if n := strings.Count(page, "--cache"); n != 1 {
		t.Errorf("the inherited flag is shown %d times, want once", n)
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestRenderIsTheSameEachTime(t *testing.T) {
	// Rendering adds help flags to the tree; a second rendering must not see a difference.
	root := tree()
	first := Render(root, "")
	if second := Render(root, ""); second != first {
		t.Errorf("two runs differ:\n%s\n%s", first, second)
	}
}
