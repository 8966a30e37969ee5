// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Directory is a Store in a directory: a mounted NFS or CIFS export, or a local
// disk. Nothing outside of the directory is ever touched, whatever symbolic links
// lie in it. The directory is opened anew for every call, so that a share may be
// mounted again in between.
type Directory struct {
	dir string
}

var _ Store = (*Directory)(nil)

// NewDirectory returns the store in the directory, which must exist when it is used.
func NewDirectory(dir string) *Directory { return &Directory{dir: path.Clean(dir)} }

// Files are made as Longhorn and Harvester make theirs, readable for all but for
// what the user's umask takes away: a share that maps root to nobody could not be
// read by Harvester otherwise.
const (
	fileMode   = 0o666
	folderMode = 0o777
)

// List implements Store. Files being written and anything but plain files are left out.
func (d *Directory) List(ctx context.Context, prefix string, each func(Object) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	doing := strings.TrimSpace("listing " + prefix)
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return d.failed(doing, err)
	}
	defer root.Close()
	folder := ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		folder = prefix[:i]
	}
	var own error // an error that is each's, or a context's, and not the file system's
	err = d.walk(root, folder, prefix, func(o Object) error {
		if own = interrupted(ctx, d, doing); own == nil {
			own = each(o)
		}
		return own
	})
	if own != nil {
		return own
	}
	if err != nil {
		return d.failed(doing, err)
	}
	return interrupted(ctx, d, doing)
}

// walk visits the files below a folder in the order of their keys.
func (d *Directory) walk(root *os.Root, folder, prefix string, visit func(Object) error) error {
	if folder == tempFolder {
		return nil
	}
	entries, err := readFolder(root, folder)
	if err != nil {
		return err
	}
	// In the order of keys a folder sorts as its name and a '/'.
	sortKey := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortKey(a), sortKey(b)) })
	for _, e := range entries {
		key := path.Join(folder, e.Name())
		if e.IsDir() {
			if below := key + "/"; strings.HasPrefix(below, prefix) || strings.HasPrefix(prefix, below) {
				if err := d.walk(root, key, prefix, visit); err != nil {
					return err
				}
			}
			continue
		}
		if !e.Type().IsRegular() || !strings.HasPrefix(key, prefix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the folder was read
		}
		if err != nil {
			return err
		}
		if err := visit(Object{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()}); err != nil {
			return err
		}
	}
	return nil
}

// readFolder lists a folder; one that is not there, or is a file, has no entries.
func readFolder(root *os.Root, folder string) ([]fs.DirEntry, error) {
	name := cmp.Or(folder, ".")
	info, err := root.Stat(name)
	if missing(err) {
		return nil, nil
	}
	if err != nil || !info.IsDir() {
		return nil, err
	}
	f, err := root.Open(name)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// Stat implements Store.
func (d *Directory) Stat(ctx context.Context, key string) (Object, error) {
	doing := "looking at " + key
	root, err := d.open(ctx, key, doing)
	if err != nil {
		return Object{}, err
	}
	defer root.Close()
	info, err := d.lstat(root, key, doing)
	if err != nil {
		return Object{}, err
	}
	return Object{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()}, nil
}

// Get implements Store.
func (d *Directory) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	doing := "reading " + key
	root, err := d.open(ctx, key, doing)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := d.lstat(root, key, doing)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, tooLarge(d, key, info.Size(), limit)
	}
	f, err := root.Open(key)
	if missing(err) {
		return nil, notFound(d, key)
	}
	if err != nil {
		return nil, d.failed(doing, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, d.failed(doing, err)
	}
	if size := int64(len(content)); size > limit {
		return nil, tooLarge(d, key, size, limit)
	}
	return content, nil
}

// Put implements Store. When it returns, the file is on the disk.
func (d *Directory) Put(ctx context.Context, key string, content []byte) error {
	doing := "writing " + key
	root, err := d.open(ctx, key, doing)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := d.put(root, key, content); err != nil {
		return d.failed(doing, err)
	}
	return nil
}

func (d *Directory) put(root *os.Root, key string, content []byte) (err error) {
	if err := root.MkdirAll(tempFolder, folderMode); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(key), folderMode); err != nil {
		return err
	}
	temp := tempFolder + "/" + rand.Text()
	defer func() {
		if err != nil {
			// The first error is the one to tell; a file left over is listed nowhere.
			_ = root.Remove(temp)
		}
	}()
	if err := writeFile(root, temp, content); err != nil {
		return err
	}
	if err := root.Rename(temp, key); err != nil {
		return err
	}
	for folder := path.Dir(key); ; folder = path.Dir(folder) {
		if err := syncFolder(root, folder); err != nil {
			return err
		}
		if folder == "." {
			return nil
		}
	}
}

func writeFile(root *os.Root, name string, content []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes a rename in the folder last. Some network file systems cannot
// sync a folder, and need not.
func syncFolder(root *os.Root, folder string) error {
	f, err := root.Open(folder)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// Delete implements Store. Folders stay.
func (d *Directory) Delete(ctx context.Context, key string) error {
	doing := "deleting " + key
	root, err := d.open(ctx, key, doing)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := d.lstat(root, key, doing); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil
	} else if err != nil {
		return err
	}
	if err := root.Remove(key); err != nil && !missing(err) {
		return d.failed(doing, err)
	}
	return nil
}

// String implements Store.
func (d *Directory) String() string {
	return (&url.URL{Scheme: "file", Path: d.dir}).String()
}

// open checks the call and opens the directory.
func (d *Directory) open(ctx context.Context, key, doing string) (*os.Root, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if err := interrupted(ctx, d, doing); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, d.failed(doing, err)
	}
	return root, nil
}

// lstat returns a plain file's size and time. Folders, links and devices are no files of a target.
func (d *Directory) lstat(root *os.Root, key, doing string) (fs.FileInfo, error) {
	info, err := root.Lstat(key)
	if missing(err) || err == nil && !info.Mode().IsRegular() {
		return nil, notFound(d, key)
	}
	if err != nil {
		return nil, d.failed(doing, err)
	}
	return info, nil
}

// missing reports whether a file is not there; also when what should be its
// folder is a file.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// failed is the error of a call that the file system refused.
func (d *Directory) failed(doing string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return vmbackup.Errorf(vmbackup.ReasonForbidden, "%s on backup target %s: %w", doing, d, err).
			WithHint("give this user the right to read and write in %s", d.dir)
	}
	return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%s on backup target %s: %w", doing, d, err).
		WithHint("check that %s is mounted and has room", d.dir)
}
