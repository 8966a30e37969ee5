// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
)

// versions is what version prints.
type versions struct {
	Client clientVersion  `json:"clientVersion"`
	Server *serverVersion `json:"serverVersion,omitempty"`
}

type clientVersion struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

type serverVersion struct {
	Kubernetes string `json:"kubernetes"`
	// KubeVirt and Longhorn are empty when they cannot be read.
	KubeVirt string `json:"kubevirt,omitempty"`
	Longhorn string `json:"longhorn,omitempty"`
	// Harvester is of a cluster that is Harvester's, with what is known of its controllers.
	Harvester *harvesterVersion `json:"harvester,omitempty"`
}

type harvesterVersion struct {
	// Version is empty when it cannot be read.
	Version string `json:"version,omitempty"`
	// Controllers is alive, dead or unclear; Why says what that rests on.
	Controllers harvester.Liveness `json:"controllers"`
	Why         string             `json:"why,omitempty"`
}

func (g *globals) newVersion() *cobra.Command {
	var (
		clientOnly bool
		format     string
	)
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the plugin and of the cluster",
		Long: `Print the versions of the plugin, of Kubernetes, KubeVirt and Longhorn, and of
Harvester where the cluster is Harvester's, with whether its controllers run.

The versions of KubeVirt, Longhorn and Harvester are unknown to a user who may not
read them.`,
		Example: `
# All versions
kubectl vmbackup version

# The plugin's own, for scripts
kubectl vmbackup version --client -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch format {
			case "", "json", "yaml":
			default:
				return usageError(cmd, invalid("output format %q is neither json nor yaml", format))
			}
			v := versions{Client: clientVersion{
				Version: g.build.Version, Commit: g.build.Commit,
				GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			}}
			var serverErr error
			if !clientOnly {
				v.Server, serverErr = g.serverVersion(cmd.Context())
			}
			if err := g.printVersions(v, format); err != nil {
				return err
			}
			return serverErr
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "Only the plugin's own version. No cluster is asked")
	cmd.Flags().StringVarP(&format, "output", "o", "", "Output format. One of: (json, yaml)")
	fixed(cmd, "output", "json", "yaml")
	return cmd
}

func (g *globals) printVersions(v versions, format string) error {
	switch format {
	case "json":
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(g.streams.Out, string(raw))
		return err
	case "yaml":
		raw, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = g.streams.Out.Write(raw)
		return err
	}
	text := fmt.Sprintf("Client Version: %s (%s, %s, %s)\n", v.Client.Version, v.Client.Commit, v.Client.GoVersion, v.Client.Platform)
	if v.Server != nil {
		unknown := func(s string) string {
			if s == "" {
				return "unknown"
			}
			return s
		}
		text += fmt.Sprintf("Server Version: %s\nKubeVirt Version: %s\nLonghorn Version: %s\n", v.Server.Kubernetes, unknown(v.Server.KubeVirt), unknown(v.Server.Longhorn))
		if h := v.Server.Harvester; h != nil {
			text += fmt.Sprintf("Harvester Version: %s (controllers %s: %s)\n", unknown(h.Version), h.Controllers, h.Why)
		}
	}
	_, err := fmt.Fprint(g.streams.Out, text)
	return err
}

func (g *globals) serverVersion(ctx context.Context) (*serverVersion, error) {
	s, err := g.connect("")
	if err != nil {
		return nil, err
	}
	return s.cluster.versions(ctx)
}
