// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// krewPlugin is krew's manifest as its v1alpha2 API documents it; a field that
// is not listed fails the strict decoding.
type krewPlugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string         `json:"version"`
		Homepage         string         `json:"homepage"`
		ShortDescription string         `json:"shortDescription"`
		Description      string         `json:"description"`
		Caveats          string         `json:"caveats"`
		Platforms        []krewPlatform `json:"platforms"`
	} `json:"spec"`
}

type krewPlatform struct {
	URI      string `json:"uri"`
	SHA256   string `json:"sha256"`
	Bin      string `json:"bin"`
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	Files []struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"files"`
}

func TestManifestKeepsTheRulesOfKrew(t *testing.T) {
	digests := unreleased()
	digests[platform{"linux", "amd64"}] = strings.Repeat("ab", 32)
	text, err := renderManifest("v1.2.3", digests)
	if err != nil {
		t.Fatal(err)
	}
	var plugin krewPlugin
	if err := yaml.UnmarshalStrict(text, &plugin); err != nil {
		t.Fatalf("not a krew manifest: %v\n%s", err, text)
	}

	if plugin.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || plugin.Kind != "Plugin" {
		t.Errorf("kind is %s %s", plugin.APIVersion, plugin.Kind)
	}
	if plugin.Metadata.Name != "vmbackup" {
		t.Errorf("name is %q", plugin.Metadata.Name)
	}
	if plugin.Spec.Version != "v1.2.3" {
		t.Errorf("version is %q", plugin.Spec.Version)
	}
	if s := plugin.Spec.ShortDescription; s == "" || len(s) > 50 || strings.Contains(s, "\n") {
		t.Errorf("short description %q is not one line of at most 50 characters", s)
	}
	for line := range strings.SplitSeq(plugin.Spec.Description+plugin.Spec.Caveats, "\n") {
		if len(line) > 80 {
			t.Errorf("line is longer than 80 characters: %q", line)
		}
	}

	seen := map[platform]bool{}
	for _, p := range plugin.Spec.Platforms {
		labels := p.Selector.MatchLabels
		if len(labels) != 2 {
			t.Errorf("selector %v wants exactly os and arch", labels)
		}
		is := platform{labels["os"], labels["arch"]}
		if seen[is] {
			t.Errorf("%s is selected twice", is)
		}
		seen[is] = true
		if p.SHA256 != digests[is] || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(p.SHA256) {
			t.Errorf("%s: sha256 is %q, want %q", is, p.SHA256, digests[is])
		}
		if want := releases + "/v1.2.3/" + is.Archive(); p.URI != want {
			t.Errorf("%s: uri is %q, want %q", is, p.URI, want)
		}
		if strings.HasSuffix(p.Bin, ".exe") != (is.OS == "windows") {
			t.Errorf("%s: bin is %q", is, p.Bin)
		}
		var extracted []string
		for _, f := range p.Files {
			extracted = append(extracted, f.From)
		}
		if want := []string{p.Bin, "LICENSE"}; strings.Join(extracted, " ") != strings.Join(want, " ") {
			t.Errorf("%s: extracts %v, want %v", is, extracted, want)
		}
	}
	for _, p := range platforms() {
		if !seen[p] {
			t.Errorf("%s has no platform in the manifest", p)
		}
	}
}

func TestManifestSaysWhenItIsNotReleased(t *testing.T) {
	released := map[platform]string{}
	for _, p := range platforms() {
		released[p] = strings.Repeat("ab", 32)
	}
	for name, tc := range map[string]struct {
		digests map[platform]string
		want    bool
	}{
		"no archive": {unreleased(), true},
		"all built":  {released, false},
	} {
		text, err := renderManifest(nextVersion, tc.digests)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "is not released"); got != tc.want {
			t.Errorf("%s: says it is not released: %v, want %v", name, got, tc.want)
		}
	}
}

func TestCommittedManifestIsGenerated(t *testing.T) {
	var out bytes.Buffer
	if err := runManifest(&out, []string{"-check", "../../krew-manifest.yaml"}); err != nil {
		t.Error(err)
	}
	changed := path.Join(t.TempDir(), "krew-manifest.yaml")
	if err := os.WriteFile(changed, []byte("kind: Plugin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runManifest(&out, []string{"-check", changed}); err == nil {
		t.Error("a manifest that was edited by hand passes the check")
	}
}

func TestArchivesHoldTheFilesAndNothingOfTheMachine(t *testing.T) {
	files := []file{{"kubectl-vmbackup", 0o755, []byte("program")}, {"LICENSE", 0o644, []byte("text")}}
	for _, name := range []string{"a.tar.gz", "a.zip"} {
		var first, second bytes.Buffer
		if err := writeArchive(&first, name, files); err != nil {
			t.Fatal(err)
		}
		if err := writeArchive(&second, name, files); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: two runs give different bytes", name)
		}
		got := readArchive(t, name, first.Bytes())
		if len(got) != len(files) {
			t.Fatalf("%s: holds %d files, want %d", name, len(got), len(files))
		}
		for i, f := range files {
			if got[i].name != f.name || got[i].mode != f.mode || !bytes.Equal(got[i].content, f.content) {
				t.Errorf("%s: entry %d is %s %v, want %s %v", name, i, got[i].name, got[i].mode, f.name, f.mode)
			}
		}
	}
	if err := writeArchive(io.Discard, "a.rar", files); err == nil {
		t.Error("an unknown format is accepted")
	}
}

func readArchive(t *testing.T, name string, data []byte) []file {
	t.Helper()
	var files []file
	if strings.HasSuffix(name, ".zip") {
		archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range archive.File {
			r, err := entry.Open()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, readEntry(t, entry.Name, entry.Mode(), r))
		}
		return files
	}
	compressed, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(compressed)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, readEntry(t, header.Name, header.FileInfo().Mode(), archive))
	}
}

func readEntry(t *testing.T, name string, mode fs.FileMode, r io.Reader) file {
	t.Helper()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return file{name, mode, content}
}

func TestSelectPlatforms(t *testing.T) {
	got, err := selectPlatforms("linux/amd64,windows/amd64")
	if err != nil || len(got) != 2 || got[1].Archive() != "kubectl-vmbackup_windows_amd64.zip" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := selectPlatforms("plan9/mips"); err == nil {
		t.Error("a platform that is not published is accepted")
	}
}
