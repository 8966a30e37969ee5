// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/sha512"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// uploadSize is that of an image whose upload takes long enough to be cut off.
const uploadSize = 768 << 20

// bigImage makes a sparse file and returns its SHA-512.
func bigImage(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(uploadSize); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("begin"), 512); err != nil {
		t.Fatal(err)
	}
	sum := sha512.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// halfSent is true in the middle of an upload.
func halfSent(e vmbackup.Event) bool {
	return e.Type == vmbackup.EventVolume && e.Step == "upload" && e.Progress > 5 && e.Progress < 95
}

// testUploads uploads images from local files: interrupted, killed, and twice at once.
func (s *suite) testUploads(t *testing.T) {
	ns := s.namespace(t, "uploads")
	directory := t.TempDir()
	sums := makeImages(t, directory)
	big := filepath.Join(directory, "big.raw")
	bigSum := bigImage(t, big)
	names := []string{"big-" + ns, "small-" + ns}
	t.Cleanup(func() { s.forgetImages(t, ns, names) })

	before := s.worldIn(t, ns)
	s.want(t, 2, "image", "create", names[0], "-n", ns, "--from-file", filepath.Join(directory, "none"))
	s.refused(t, []string{"is not the one of --checksum", "nothing was uploaded"}, "image", "create", names[0], "-n", ns, "--from-file", big, "--checksum", strings.Repeat("0", 128))
	if planned := s.want(t, 0, "image", "create", names[0], "-n", ns, "--from-file", big, "--dry-run").stdout; !strings.Contains(planned, "BackingImage") || !strings.Contains(planned, "Upload the content") {
		t.Errorf("planned: %s", planned)
	}
	if after := s.worldIn(t, ns); len(before) != len(after) {
		t.Errorf("a refusal or a plan has changed something:\n%v\n%v", before, after)
	}

	create := []string{"image", "create", names[0], "-n", ns, "--from-file", big}
	p := s.start(t, create...)
	p.until(t, "half of the upload", halfSent)
	got := p.end(t, os.Interrupt)
	if got.code != 130 || !strings.Contains(got.stderr, "begins anew") {
		t.Errorf("want exit code 130, and what becomes of it: %s", got)
	}
	p = s.start(t, goOn(t, got)...)
	p.until(t, "half of the upload", halfSent)
	p.end(t, syscall.SIGKILL)
	p = s.start(t, create...)
	image := s.image(t, create...)
	if got := p.wait(t); got.code != 0 {
		t.Errorf("of two at once one fails: %s", got)
	}
	if !image.Status.Ready || image.Status.Checksum != bigSum || image.Status.SizeBytes != uploadSize || image.Spec.Source.Type != vmbackup.ImageUpload {
		t.Errorf("%s", asJSON(image))
	}

	small := s.image(t, "image", "create", names[1], "-n", ns, "--from-file", filepath.Join(directory, "cloud.qcow2"))
	if !small.Status.Ready || small.Status.Checksum != sums["cloud.qcow2"] || small.Status.VirtualSizeBytes != imageSize {
		t.Errorf("%s", asJSON(small))
	}
	s.refused(t, []string{"another checksum"}, "image", "create", names[1], "-n", ns, "--from-file", filepath.Join(directory, "cloud.raw"))
	for _, name := range names {
		s.want(t, 0, "image", "delete", name, "-n", ns, "--yes")
	}
}
