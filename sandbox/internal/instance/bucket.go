// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"os"
)

// ErrHidden is returned when the bucket is hidden already.
var ErrHidden = errors.New("the bucket is hidden already: show it first")

// The bucket is a directory of the S3 server, which finds it anew for each request.
func (i *Instance) bucket() string { return i.path("s3", Bucket) }
func (i *Instance) hidden() string { return i.path("s3-hidden") }

// HideBucket takes the bucket with all that is in it away from the S3 server, which
// goes on without it; where replaced is true, an empty one is in its place.
func (i *Instance) HideBucket(replaced bool) error {
	if err := i.checkOurs(); err != nil {
		return err
	}
	if _, err := os.Lstat(i.hidden()); err == nil {
		return ErrHidden
	} else if !os.IsNotExist(err) {
		return err
	}
	if err := os.Rename(i.bucket(), i.hidden()); err != nil {
		return err
	}
	if !replaced {
		return nil
	}
	return os.Mkdir(i.bucket(), 0o700)
}

// ShowBucket puts the hidden bucket back as it was; what was written to the empty
// one in the meantime is gone. A bucket that is not hidden stays as it is.
func (i *Instance) ShowBucket() error {
	if err := i.checkOurs(); err != nil {
		return err
	}
	if _, err := os.Lstat(i.hidden()); os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.RemoveAll(i.bucket()); err != nil {
		return err
	}
	return os.Rename(i.hidden(), i.bucket())
}
