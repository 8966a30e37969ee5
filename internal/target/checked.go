// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"fmt"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// PutChecked writes a file and compares what the target returns.
func PutChecked(ctx context.Context, store Store, key string, content []byte) error {
	if err := store.Put(ctx, key, content); err != nil {
		return err
	}
	back, err := store.Get(ctx, key, int64(len(content))+1)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, content) {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%s on %s does not read back as it was written", key, store).
			WithHint("the target does not keep what is written to it; check it before you rely on any backup there")
	}
	return nil
}

// See fails when a file of what Longhorn reported is not on the target.
func See(ctx context.Context, store Store, key, what string) error {
	_, err := store.Stat(ctx, key)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return MissingData(ctx, store, fmt.Sprintf("Longhorn calls %s complete, but %s does not hold it (%s)", what, store, key),
			"check that Longhorn and this command see the same backup target, then create a new backup")
	}
	return err
}

// MissingData is the error for data that is not on a target: DataLost on one that holds
// other files, TargetEmpty on one without any, which proves nothing. A target that
// does not say is its own error.
func MissingData(ctx context.Context, store Store, what, hint string) error {
	empty, err := Empty(ctx, store)
	switch {
	case err != nil:
		return err
	case empty:
		return EmptyError(store, what)
	}
	return vmbackup.Errorf(vmbackup.ReasonDataLost, "%s", what).WithHint("%s", hint)
}

// EmptyError says of something missing that the whole target is empty.
func EmptyError(store Store, what string) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonTargetEmpty, "%s; not one file lies on %s, so that it is another target than the backup was made on, or was emptied", what, store).
		WithHint("look at the bucket or the directory itself, and at the URL in Longhorn's BackupTarget; an empty target says nothing about the backup, and nothing was changed")
}
