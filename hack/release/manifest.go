// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	_ "embed"
	"strings"
	"text/template"
)

// pluginName is what kubectl and krew call the plugin.
const pluginName = "vmbackup"

// releases is where the archives of a version are published.
const releases = "https://github.com/vmbackup/kubectl-vmbackup/releases/download"

//go:embed manifest.yaml.tmpl
var manifestTemplate string

// unreleased returns the digests of a version without archives: all zeros. krew
// accepts the form and refuses any download, as no file has this digest.
func unreleased() map[platform]string {
	digests := map[platform]string{}
	for _, p := range platforms() {
		digests[p] = strings.Repeat("0", 64)
	}
	return digests
}

// renderManifest returns the krew manifest of a version whose archives have
// the digests given.
func renderManifest(version string, digests map[platform]string) ([]byte, error) {
	type row struct {
		platform
		URI, SHA256 string
	}
	data := struct {
		Name, Version string
		Unreleased    bool
		Platforms     []row
	}{Name: pluginName, Version: version}
	none := unreleased()
	for _, p := range platforms() {
		uri := releases + "/" + version + "/" + p.Archive()
		data.Platforms = append(data.Platforms, row{p, uri, digests[p]})
		data.Unreleased = data.Unreleased || digests[p] == none[p]
	}
	tmpl, err := template.New("manifest").Option("missingkey=error").Parse(manifestTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
