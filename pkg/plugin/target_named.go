// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
)

// namedTarget are the flags that name a target without a cluster.
type namedTarget struct {
	url         string
	credentials string
}

func (e *namedTarget) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&e.url, "url", "", "Read this target instead of one of the cluster: s3://BUCKET@REGION/PATH/ or file:///DIRECTORY")
	flags.StringVar(&e.credentials, "credentials", "", "File with the keys of Longhorn's Secret for --url, as lines KEY=VALUE or a JSON object. - reads the standard input")
	must(cmd.MarkFlagFilename("credentials"))
}

func (e *namedTarget) validate(named bool) error {
	switch {
	case e.url != "" && named:
		return invalid("a name and --url are two targets: give one")
	case e.url == "" && e.credentials != "":
		return invalid("--credentials are for --url; a target of the cluster has its own")
	}
	return nil
}

// open opens the target of --url.
func (e *namedTarget) open(g *globals) (target.Store, error) {
	keys, err := g.readCredentials(e.credentials)
	if err != nil {
		return nil, err
	}
	return target.Open(target.Config{URL: e.url, Credentials: keys})
}

// credentialsLimit is far more than keys and a certificate take.
const credentialsLimit = 1 << 20

// readCredentials reads a file of keys; none without a name. Errors never quote it.
func (g *globals) readCredentials(file string) (map[string][]byte, error) {
	if file == "" {
		return nil, nil
	}
	in := g.streams.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, invalid("--credentials: %v", err)
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, credentialsLimit+1))
	if err != nil {
		return nil, invalid("--credentials: %v", err)
	}
	if len(content) > credentialsLimit {
		return nil, invalid("--credentials: %s has more than %d bytes", file, credentialsLimit)
	}
	keys, err := target.ParseCredentials(content)
	if err != nil {
		return nil, fmt.Errorf("--credentials %s: %w", file, err)
	}
	return keys, nil
}
