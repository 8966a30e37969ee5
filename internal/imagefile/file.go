// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package imagefile looks at a local file that is to become an image: what it holds,
// and whether Longhorn can use it.
package imagefile

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sector is what a file's size must be a multiple of: Longhorn reads it past the
// kernel's cache.
const sector = 512

// File is a local file that Longhorn can make an image of.
type File struct {
	// Path is as it was given.
	Path   string
	Format Format
	size   int64
	// virtual is the size of the disk in it.
	virtual int64
}

// Inspect looks at a file. It returns an InvalidRequest error for what is no image that
// Longhorn can use, and says what to do about it.
func Inspect(path string) (*File, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, invalid("there is no file %s", path)
	case err != nil:
		return nil, invalid("%w", err)
	case info.IsDir():
		return nil, invalid("%s is a directory", path)
	case !info.Mode().IsRegular():
		return nil, invalid("%s is no regular file: its size is not known before it is read", path).
			WithHint("copy its content to a file first")
	case info.Size() == 0:
		return nil, invalid("file %s is empty", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, invalid("%w", err)
	}
	defer func() { _ = file.Close() }()
	head := make([]byte, headLength)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, invalid("read %s: %w", path, err)
	}
	h, err := readHead(head[:n])
	if err != nil {
		e := vmbackup.AsError(err, vmbackup.ReasonInvalidRequest)
		return nil, invalid("file %s cannot become an image: %s", path, e.Message).WithHint("%s", e.Hint)
	}
	if info.Size()%sector != 0 {
		return nil, invalid("file %s has %d bytes, which is no multiple of %d, as Longhorn needs it: it may be cut off", path, info.Size(), sector).
			WithHint("compare it with what its publisher says of it; if it is whole, fill it up with: truncate --size %%%d %s", sector, path)
	}
	f := &File{Path: path, Format: h.format, size: info.Size(), virtual: h.virtual}
	if f.Format == Raw {
		f.virtual = f.size
	}
	return f, nil
}

// SizeBytes implements vmbackup.ImageContent.
func (f *File) SizeBytes() int64 { return f.size }

// VirtualSizeBytes is the size of the disk in the image.
func (f *File) VirtualSizeBytes() int64 { return f.virtual }

// Open implements vmbackup.ImageContent. It refuses a file whose size has changed since
// it was looked at.
func (f *File) Open() (io.ReadCloser, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, invalid("%w", err)
	}
	info, err := file.Stat()
	if err == nil && info.Size() == f.size {
		return file, nil
	}
	_ = file.Close()
	if err != nil {
		return nil, invalid("%w", err)
	}
	return nil, invalid("file %s was changed meanwhile: it had %d bytes, and has %d", f.Path, f.size, info.Size()).
		WithHint("run the same command again when nothing writes to it any more")
}

// Checksum reads the file and returns its SHA-512 in hex.
func (f *File) Checksum(ctx context.Context) (string, error) {
	file, err := f.Open()
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	sum, buffer, done := sha512.New(), make([]byte, 1<<20), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := file.Read(buffer)
		_, _ = sum.Write(buffer[:n])
		done += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", invalid("read %s: %w", f.Path, err)
		}
	}
	if done != f.size {
		return "", invalid("file %s was changed while it was read", f.Path).
			WithHint("run the same command again when nothing writes to it any more")
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func invalid(format string, args ...any) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "%w", fmt.Errorf(format, args...))
}
