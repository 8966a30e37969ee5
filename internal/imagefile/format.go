// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package imagefile

import (
	"bytes"
	"encoding/binary"
)

// Format is the format of an image's file.
type Format string

// The formats that Longhorn makes volumes of.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// head is what the beginning of a file says.
type head struct {
	format Format
	// virtual is the size of the disk in the file; 0 for raw, whose size it is.
	virtual int64
}

// headLength is how much of a file is looked at: the header of version 3 of qcow2, and
// the mark of a tar archive, which is in its 257th byte.
const headLength = 512

// mark is how a file begins, or what it has at an offset, of which Longhorn would make a
// disk that no machine can read.
type mark struct {
	offset int
	bytes  string
	what   string
	remedy string
}

func marks() []mark {
	return []mark{
		{0, "\x1f\x8b", "it is compressed with gzip", "unpack it first: gunzip FILE"},
		{0, "\xfd7zXZ\x00", "it is compressed with xz", "unpack it first: unxz FILE"},
		{0, "\x28\xb5\x2f\xfd", "it is compressed with Zstandard", "unpack it first: unzstd FILE"},
		{0, "BZh", "it is compressed with bzip2", "unpack it first: bunzip2 FILE"},
		{0, "PK\x03\x04", "it is a ZIP archive", "unpack it first: unzip FILE"},
		{0, "7z\xbc\xaf\x27\x1c", "it is a 7-Zip archive", "unpack it first"},
		{257, "ustar", "it is a tar archive, as an OVA file is", "unpack it first: tar xf FILE; and convert the disk in it: qemu-img convert -O qcow2 DISK NEW"},
		{0, "KDMV", "it is a VMDK disk", convert},
		{0, "COWD", "it is a VMDK disk", convert},
		{0, "# Disk DescriptorFile", "it describes a VMDK disk and holds none", "convert the disk: qemu-img convert -O qcow2 FILE NEW"},
		{0, "vhdxfile", "it is a VHDX disk", convert},
		{0, "conectix", "it is a VHD disk", convert},
		{64, "\x7f\x10\xda\xbe", "it is a VDI disk of VirtualBox", convert},
		{0, "<html", "it is a page of a web site, perhaps an error's", "download the image again"},
		{0, "<!DOCTYPE", "it is a page of a web site, perhaps an error's", "download the image again"},
	}
}

const convert = "convert it first: qemu-img convert -O qcow2 FILE NEW"

// The header of a qcow2 file, as in QEMU's docs/interop/qcow2.rst.
const (
	qcowMark         = "QFI\xfb"
	qcowShortest     = 72 // of version 2
	qcowVersion      = 4
	qcowBackingFile  = 8
	qcowVirtualSize  = 24
	qcowEncryption   = 32
	qcowIncompatible = 72 // of version 3
	qcowDirty        = 1 << 0
	qcowCorrupt      = 1 << 1
	qcowExternalData = 1 << 2
)

// readHead reads the beginning of a file. The error has the reason InvalidRequest.
func readHead(b []byte) (head, error) {
	for _, m := range marks() {
		if len(b) > m.offset && bytes.HasPrefix(b[m.offset:], []byte(m.bytes)) {
			return head{}, invalid("%s", m.what).WithHint("%s; Longhorn takes raw and qcow2", m.remedy)
		}
	}
	if !bytes.HasPrefix(b, []byte(qcowMark)) {
		return head{format: Raw}, nil
	}
	if len(b) < qcowShortest {
		return head{}, invalid("its qcow2 header is cut off").WithHint("download or copy it again")
	}
	version := binary.BigEndian.Uint32(b[qcowVersion:])
	if version != 2 && version != 3 {
		return head{}, invalid("it is of version %d of qcow2, and 2 and 3 are known", version).WithHint("%s", convert)
	}
	virtual := binary.BigEndian.Uint64(b[qcowVirtualSize:])
	switch {
	case binary.BigEndian.Uint64(b[qcowBackingFile:]) != 0:
		return head{}, invalid("it holds only what differs from another file, its backing file").
			WithHint("make one file of both: qemu-img convert -O qcow2 FILE NEW")
	case binary.BigEndian.Uint32(b[qcowEncryption:]) != 0:
		return head{}, invalid("it is encrypted").WithHint("decrypt it first: qemu-img convert -O qcow2 FILE NEW")
	case virtual == 0 || virtual > 1<<62:
		return head{}, invalid("it says that its disk has %d bytes", virtual).WithHint("download or copy it again")
	}
	if version == 2 {
		return head{QCOW2, int64(virtual)}, nil
	}
	if len(b) < qcowIncompatible+8 {
		return head{}, invalid("its qcow2 header is cut off").WithHint("download or copy it again")
	}
	features := binary.BigEndian.Uint64(b[qcowIncompatible:])
	switch {
	case features&qcowExternalData != 0:
		return head{}, invalid("its data lies in another file").WithHint("make one file of both: qemu-img convert -O qcow2 FILE NEW")
	case features&qcowCorrupt != 0:
		return head{}, invalid("it is marked as corrupt").WithHint("repair it first: qemu-img check -r all FILE")
	case features&qcowDirty != 0:
		return head{}, invalid("it was not closed: a machine may be writing to it").WithHint("stop the machine, or repair it: qemu-img check -r all FILE")
	}
	return head{QCOW2, int64(virtual)}, nil
}
