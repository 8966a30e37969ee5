// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package longhorndisk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// Random returns the endless byte sequence that belongs to a seed: the same on every machine.
func Random(seed string) io.Reader {
	return rand.NewChaCha8(sha256.Sum256([]byte(seed)))
}

// Write puts size bytes from data at off of the replica in dir. Blocks that
// are written in part keep their other bytes, whichever layer they come from.
// The replica may be in use: Longhorn reads what is there when it opens the
// file for a snapshot's backup.
func Write(dir string, data io.Reader, off, size int64) error {
	chain, err := OpenChain(dir)
	if err != nil {
		return err
	}
	defer chain.Close()
	if off < 0 || size < 0 || off+size > chain.Size() {
		return fmt.Errorf("write %d bytes at %d: the volume has %d", size, off, chain.Size())
	}
	path, err := headFile(dir)
	if err != nil {
		return err
	}
	head, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	const step = 256 * blockSize
	buffer := make([]byte, step)
	for size > 0 {
		first := off / blockSize * blockSize
		n := min(size, first+step-off)
		last := min((off+n+blockSize-1)/blockSize*blockSize, chain.Size())
		block := buffer[:last-first]
		if _, err := chain.ReadAt(block, first); err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, head.Close())
		}
		if _, err := io.ReadFull(data, block[off-first:off-first+n]); err != nil {
			return errors.Join(fmt.Errorf("read the data to write: %w", err), head.Close())
		}
		if _, err := head.WriteAt(block, first); err != nil {
			return errors.Join(err, head.Close())
		}
		off, size = off+n, size-n
	}
	// The replica opens its files for direct I/O, past the page cache.
	return errors.Join(head.Sync(), head.Close())
}

// SHA256 is the hex checksum of the whole logical content of the replica in dir.
func SHA256(dir string) (string, error) {
	chain, err := OpenChain(dir)
	if err != nil {
		return "", err
	}
	defer chain.Close()
	hash := sha256.New()
	const buffer = 1 << 20
	if _, err := io.CopyBuffer(hash, io.NewSectionReader(chain, 0, chain.Size()), make([]byte, buffer)); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
