// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// file is one entry of an archive.
type file struct {
	name    string
	mode    fs.FileMode
	content []byte
}

// writeArchive writes files as the format that the archive's name asks for
// (.tar.gz or .zip). The bytes depend on the files alone: times, owners and
// order are fixed, so that anyone can rebuild an archive and compare digests.
func writeArchive(w io.Writer, name string, files []file) error {
	// The earliest time that a zip archive can hold.
	modified := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	switch {
	case strings.HasSuffix(name, ".tar.gz"):
		return writeTarGz(w, files, modified)
	case strings.HasSuffix(name, ".zip"):
		return writeZip(w, files, modified)
	}
	return fmt.Errorf("no archive format has the name %s", name)
}

func writeTarGz(w io.Writer, files []file, modified time.Time) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     f.name,
			Mode:     int64(f.mode.Perm()),
			Size:     int64(len(f.content)),
			ModTime:  modified,
			Format:   tar.FormatUSTAR,
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(f.content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

func writeZip(w io.Writer, files []file, modified time.Time) error {
	archive := zip.NewWriter(w)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: modified}
		header.SetMode(f.mode)
		entry, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := entry.Write(f.content); err != nil {
			return err
		}
	}
	return archive.Close()
}
