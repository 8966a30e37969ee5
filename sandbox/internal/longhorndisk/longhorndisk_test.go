// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package longhorndisk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replica is a replica directory in the making.
type replica struct {
	t   *testing.T
	dir string
}

func newReplica(t *testing.T, size int64, head, backing string) replica {
	t.Helper()
	r := replica{t: t, dir: filepath.Join(t.TempDir(), "replicas", "volume-1")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("volume.meta", fmt.Sprintf(
		`{"Size":%d,"Head":%q,"Dirty":true,"Rebuilding":false,"BackingFilePath":%q,"SectorSize":512}`, size, head, backing))
	return r
}

func (r replica) write(name, content string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// layer makes a sparse file of the given size with a block of one byte value at each offset.
func (r replica) layer(name, parent string, size int64, blocks map[int64]byte) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		r.t.Fatal(err)
	}
	for off, value := range blocks {
		if _, err := f.WriteAt(bytes.Repeat([]byte{value}, blockSize), off); err != nil {
			r.t.Fatal(err)
		}
	}
	r.write(name+".meta", fmt.Sprintf(`{"Name":%q,"Parent":%q,"Removed":false,"UserCreated":true}`, name, parent))
}

func (r replica) content() []byte {
	r.t.Helper()
	chain, err := OpenChain(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	defer chain.Close()
	data, err := io.ReadAll(io.NewSectionReader(chain, 0, chain.Size()))
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

const size = 8 * blockSize

// three is a chain in which every kind of overlap occurs, with the content it must show.
func three(t *testing.T) (replica, []byte) {
	// The path is the engine's: the image lies on the disk that holds the replica.
	r := newReplica(t, size, "volume-head-002.img", "/host/var/lib/longhorn/backing-images/image-1/backing")
	image := filepath.Join(r.dir, "..", "..", "backing-images", "image-1")
	if err := os.MkdirAll(image, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "backing"), bytes.Repeat([]byte{'B'}, 2*blockSize), 0o600); err != nil {
		t.Fatal(err)
	}
	r.layer("volume-head-002.img", "volume-snap-b.img", size, map[int64]byte{3 * blockSize: 'h'})
	r.layer("volume-snap-b.img", "volume-snap-a.img", size, map[int64]byte{3 * blockSize: 'b', 5 * blockSize: 'b'})
	// The oldest snapshot is from before the volume grew.
	r.layer("volume-snap-a.img", "", 6*blockSize, map[int64]byte{1 * blockSize: 'a', 3 * blockSize: 'a', 5 * blockSize: 'a'})
	want := make([]byte, size)
	for block, value := range map[int]byte{0: 'B', 1: 'a', 3: 'h', 5: 'b'} {
		copy(want[block*blockSize:], bytes.Repeat([]byte{value}, blockSize))
	}
	return r, want
}

func TestChainShowsTheNewestData(t *testing.T) {
	r, want := three(t)
	if got := r.content(); !bytes.Equal(got, want) {
		t.Errorf("content differs: blocks start with %q, want %q", firstBytes(got), firstBytes(want))
	}
	sum, err := SHA256(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if expected := sha256.Sum256(want); sum != hex.EncodeToString(expected[:]) {
		t.Error("checksum is not that of the content")
	}
}

func firstBytes(data []byte) string {
	var b strings.Builder
	for off := 0; off < len(data); off += blockSize {
		b.WriteByte(max(data[off], '.'))
	}
	return b.String()
}

func TestReadAtCrossesLayers(t *testing.T) {
	r, want := three(t)
	chain, err := OpenChain(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	part := make([]byte, 4*blockSize)
	const off = blockSize/2 + 1
	if n, err := chain.ReadAt(part, off); n != len(part) || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if !bytes.Equal(part, want[off:off+len(part)]) {
		t.Error("a read that is not aligned shows other bytes")
	}
	if n, err := chain.ReadAt(part, size-10); n != 10 || !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

func TestWriteKeepsTheRestOfItsBlocks(t *testing.T) {
	r, want := three(t)
	data := bytes.Repeat([]byte{'w'}, 2*blockSize)
	const off = blockSize - 100 // parts of blocks 0, 2 and all of 1
	if err := Write(r.dir, bytes.NewReader(data), off, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	copy(want[off:], data)
	if got := r.content(); !bytes.Equal(got, want) {
		t.Errorf("after the write blocks start with %q, want %q", firstBytes(got), firstBytes(want))
	}
}

func TestWriteOutsideTheVolume(t *testing.T) {
	r, _ := three(t)
	err := Write(r.dir, bytes.NewReader(make([]byte, 20)), size-10, 20)
	if err == nil || !strings.Contains(err.Error(), "the volume has 32768") {
		t.Errorf("error %v", err)
	}
}

func TestBrokenReplicas(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(r replica)
		want  string
	}{
		"circle": {func(r replica) {
			r.write("volume-snap-a.img.meta", `{"Name":"volume-snap-a.img","Parent":"volume-snap-b.img"}`)
		}, "circle"},
		"missing snapshot": {func(r replica) {
			if err := os.Remove(filepath.Join(r.dir, "volume-snap-a.img")); err != nil {
				r.t.Fatal(err)
			}
		}, "volume-snap-a.img"},
		"rebuilding": {func(r replica) {
			r.write("volume.meta", `{"Size":4096,"Head":"volume-head-002.img","Rebuilding":true}`)
		}, "being rebuilt"},
		"qcow2 backing file": {func(r replica) {
			r.write("image", "QFI\xfb....")
			r.write("volume.meta", fmt.Sprintf(`{"Size":4096,"Head":"volume-head-002.img","BackingFilePath":%q}`, filepath.Join(r.dir, "image")))
		}, "qcow2"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := three(t)
			c.spoil(r)
			_, err := SHA256(r.dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}

func TestRandomFollowsFromTheSeed(t *testing.T) {
	read := func(seed string) string {
		data := make([]byte, 16)
		if _, err := io.ReadFull(Random(seed), data); err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(data)
	}
	// Known bytes: a restore on another machine is checked against the same.
	if got, want := read("demo/web-root"), "611273dce88e941ff2c7b4fc5bfd3731"; got != want {
		t.Errorf("bytes of the seed are %s, want %s", got, want)
	}
	if read("a") == read("b") {
		t.Error("two seeds, the same bytes")
	}
}
