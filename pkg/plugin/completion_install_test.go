// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestPluginCompletionInstall(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kubectl_complete-vmbackup")
	r := newRig(t)
	r.run("plugin-completion", "install", "--dir", dir).want(t, exitDone, path+" installed\n", "")
	// The script hands its arguments to the plugin as they are.
	plugin := "#!/bin/sh\nprintf '[%s]' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl-vmbackup"), []byte(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := exec.CommandContext(t.Context(), "kubectl_complete-vmbackup", "create", "--type", "").CombinedOutput()
	if err != nil || string(out) != "[__complete][create][--type][]" {
		t.Errorf("%v: %s", err, out)
	}
	// Again, and without a folder: beside the plugin.
	r.run("plugin-completion", "install").want(t, exitDone, path+" installed\n", "")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v: %v", err, entries)
	}

	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.run("plugin-completion", "install").want(t, exitRefused, "",
		"error: "+path+" is another program; it was left as it is\nhint: remove it, or name another folder with --dir\n")
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("%v: %s", err, content)
	}
	r.run("plugin-completion", "install", "--dir", filepath.Join(dir, "none")).contains(t, exitFailed, "error: install ", "no such file or directory")
	t.Setenv("PATH", t.TempDir())
	r.run("plugin-completion", "install").contains(t, exitRefused, "error: kubectl-vmbackup is not on the PATH", "hint: name a folder with --dir\n")
	r.run("plugin-completion", "remove").contains(t, exitUsage, `unknown command "remove" for "kubectl vmbackup plugin-completion"`)
	if help := r.run("plugin-completion"); help.code != exitDone || help.out != r.run("plugin-completion", "--help").out {
		t.Errorf("%+v", help)
	}
}
