// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyLength is the number of hex digits in the name of an entry.
const keyLength = 16

// Key names the cache entry of a family: it changes with every file of its
// module directory, with its row in the table, and with the toolchain.
func Key(f Family, moduleDir, toolchain string) (string, error) {
	hash := sha256.New()
	row, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(hash, "%s\n%s\n", toolchain, row)
	err = filepath.WalkDir(moduleDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(moduleDir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %x\n", name, sha256.Sum256(data))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the module %s: %w", moduleDir, err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:keyLength], nil
}
