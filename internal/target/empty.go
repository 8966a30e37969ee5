// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
)

// Empty reports whether not one file lies on a target. A target that is empty is
// another one than backups were made on, or was emptied; in either case it proves
// nothing about any single backup. An error is the target's, as of Store.List.
func Empty(ctx context.Context, store Store) (bool, error) {
	enough := errors.New("there is a file")
	err := store.List(ctx, "", func(Object) error { return enough })
	if errors.Is(err, enough) {
		return false, nil
	}
	return err == nil, err
}
