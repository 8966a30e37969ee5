// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
)

func (a *app) bucketCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bucket",
		Short: "Take the backup target's bucket away and put it back, while the S3 server runs on",
		Long: `Take the backup target's bucket away and put it back, while the S3 server runs on.
"sandbox component stop s3" takes the server itself away.`,
	}
	for _, c := range []struct {
		use, short string
		run        func(*instance.Instance) error
	}{
		{"hide", "Take the bucket away: the server knows none of that name", func(i *instance.Instance) error { return i.HideBucket(false) }},
		{"replace", "Take the bucket away and put an empty one in its place", func(i *instance.Instance) error { return i.HideBucket(true) }},
		{"show", "Put the bucket back as it was", (*instance.Instance).ShowBucket},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: c.use, Short: c.short, Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				i, err := a.instance()
				if err != nil {
					return err
				}
				return c.run(i)
			},
		})
	}
	return cmd
}
