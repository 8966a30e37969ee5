// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// keepUnused is how long an entry of other pins stays after its last use:
// another checkout may go back and forth between them.
const keepUnused = 24 * time.Hour

// Hold keeps a cache entry from being removed for as long as the returned file is open.
func Hold(entry string) (*os.File, error) {
	f, err := os.Open(entry)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("hold %s: %w", entry, err), f.Close())
	}
	return f, nil
}

// lockFamily excludes other builds of the same family. Closing the file ends it.
func (b *Builder) lockFamily(ctx context.Context, f Family, label string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(b.Cache, f.Name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	const retry = 200 * time.Millisecond
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for told := false; ; told = true {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, lock.Close())
		}
		if !told {
			fmt.Fprintf(b.Out, "%s: waiting for another build\n", label)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), lock.Close())
		}
	}
}

// removeUnused deletes what interrupted builds of the family left, and its
// entries of other pins that nobody holds or used lately. The caller has the family's lock.
func (b *Builder) removeUnused(f Family, keep string) error {
	found, err := os.ReadDir(b.Cache)
	if err != nil {
		return err
	}
	for _, e := range found {
		path := filepath.Join(b.Cache, e.Name())
		if strings.HasPrefix(e.Name(), ".new-"+f.Name+"-") {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		key, ok := strings.CutPrefix(e.Name(), f.Name+"-")
		if !ok || len(key) != keyLength || path == keep {
			continue
		}
		if err := removeIfUnused(path); err != nil {
			return err
		}
	}
	return nil
}

func removeIfUnused(entry string) error {
	dir, err := os.Open(entry)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if time.Since(info.ModTime()) < keepUnused {
		return nil
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		}
		return err
	}
	return os.RemoveAll(entry)
}
