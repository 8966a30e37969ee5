// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package longhorndisk reads and writes the content of a Longhorn volume in
// its replica's directory, where a guest would go through a block device.
package longhorndisk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// blockSize is the unit in which Longhorn's files overlay each other: a block
// that is present in a file hides the same block of the files below it.
const blockSize = 4096

// Chain is the content of a replica: the head on top of its snapshots on top
// of the backing file. Source of the format: longhorn-engine, pkg/replica
// (volume.meta, volume-head-*.img.meta, volume-snap-*.img.meta).
type Chain struct {
	size   int64
	layers []layer // the head first
}

// layer is one sparse file; its holes show the layer below.
type layer struct {
	file *os.File
	size int64
}

// volumeMeta is the part of volume.meta that matters here.
type volumeMeta struct {
	Size            int64
	Head            string
	BackingFilePath string
	Rebuilding      bool
}

// diskMeta is the part of *.img.meta that matters here.
type diskMeta struct {
	Name   string
	Parent string
}

// OpenChain opens the replica in dir for reading. The caller closes it.
func OpenChain(dir string) (*Chain, error) {
	var volume volumeMeta
	if err := readJSON(filepath.Join(dir, "volume.meta"), &volume); err != nil {
		return nil, err
	}
	if volume.Rebuilding {
		return nil, fmt.Errorf("replica %s is being rebuilt", dir)
	}
	c := &Chain{size: volume.Size}
	seen := map[string]bool{}
	for name := volume.Head; name != ""; {
		if seen[name] {
			return nil, errors.Join(fmt.Errorf("replica %s: the chain runs in a circle at %s", dir, name), c.Close())
		}
		seen[name] = true
		if err := c.add(filepath.Join(dir, name)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		var disk diskMeta
		if err := readJSON(filepath.Join(dir, name+".meta"), &disk); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		name = disk.Parent
	}
	if volume.BackingFilePath != "" {
		if err := c.addBacking(backingFile(dir, volume.BackingFilePath)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *Chain) add(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	c.layers = append(c.layers, layer{file: f, size: info.Size()})
	return nil
}

// backingFile is the path of a backing image from here. The engine tells it as
// it sees it, below a mount of the host's root; the Longhorn disk that holds the
// replica (<disk>/replicas/<name>) holds the image too.
func backingFile(dir, told string) string {
	const images = "/backing-images/"
	if i := strings.LastIndex(told, images); i >= 0 {
		return filepath.Join(dir, "..", "..", told[i:])
	}
	return told
}

// addBacking adds the backing file, which Longhorn keeps as the user gave it.
func (c *Chain) addBacking(path string) error {
	if err := c.add(path); err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	magic := make([]byte, 4)
	_, err := c.layers[len(c.layers)-1].file.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(magic) == "QFI\xfb" {
		return fmt.Errorf("backing file %s is qcow2: only raw ones can be read here", path)
	}
	return nil
}

// Size of the volume in bytes.
func (c *Chain) Size() int64 { return c.size }

// Close closes the files.
func (c *Chain) Close() error {
	var errs []error
	for _, l := range c.layers {
		errs = append(errs, l.file.Close())
	}
	return errors.Join(errs...)
}

// ReadAt reads the logical content; what no layer holds is zero.
func (c *Chain) ReadAt(p []byte, off int64) (int, error) {
	if off >= c.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > c.size-off {
		p, end = p[:c.size-off], io.EOF
	}
	if err := c.fill(p, off, 0); err != nil {
		return 0, err
	}
	return len(p), end
}

// fill reads [off, off+len(p)) of the layers from depth on.
func (c *Chain) fill(p []byte, off int64, depth int) error {
	if depth == len(c.layers) {
		clear(p)
		return nil
	}
	l := c.layers[depth]
	for len(p) > 0 {
		n, data, err := l.extent(off, int64(len(p)))
		if err != nil {
			return err
		}
		if data {
			if _, err := io.ReadFull(io.NewSectionReader(l.file, off, n), p[:n]); err != nil {
				return fmt.Errorf("read %s at %d: %w", l.file.Name(), off, err)
			}
		} else if err := c.fill(p[:n], off, depth+1); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// extent says whether the layer holds data at off, and for how many bytes (at most limit) that stays so.
func (l layer) extent(off, limit int64) (n int64, data bool, err error) {
	if off >= l.size {
		return limit, false, nil
	}
	fd := int(l.file.Fd())
	start, err := unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return limit, false, nil // only a hole up to the end
	}
	if err != nil {
		return 0, false, fmt.Errorf("find data in %s: %w", l.file.Name(), err)
	}
	if start > off {
		return min(start-off, limit), false, nil
	}
	hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil {
		return 0, false, fmt.Errorf("find a hole in %s: %w", l.file.Name(), err)
	}
	return min(hole-off, limit), true, nil
}

// headFile is the path of the file that takes writes.
func headFile(dir string) (string, error) {
	var volume volumeMeta
	if err := readJSON(filepath.Join(dir, "volume.meta"), &volume); err != nil {
		return "", err
	}
	return filepath.Join(dir, volume.Head), nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
