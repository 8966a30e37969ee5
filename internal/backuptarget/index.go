// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// requestsAtOnce hide the way to a remote target and do not flood a small one.
	requestsAtOnce = 16
	// blockSize is what Longhorn multiplies its count of blocks with.
	blockSize = 2 << 20
	// volumeConfigLimit is far more than the description of a volume takes.
	volumeConfigLimit = 1 << 20
	// imageConfigLimit is of the description of a backing image, which lists its
	// blocks: enough for an image of some 500 GiB.
	imageConfigLimit = 32 << 20
)

// index is what Longhorn has on a target: a name and some numbers for each volume,
// backup and image, never the lists of blocks.
type index struct {
	mu      sync.Mutex
	volumes map[string]*storedVolume
	images  map[string]int64 // bytes; -1 is not known
	broken  []vmbackup.TargetFile
	backups int
}

// storedVolume is a volume in the backup store.
type storedVolume struct {
	bytes int64
	claim string // namespace/name
	// backups are whether a description names them, by name.
	backups map[string]bool
	named   bool
}

// readIndex lists the volumes, their backups and the backing images.
func readIndex(ctx context.Context, store target.Store) (*index, error) {
	x := &index{volumes: map[string]*storedVolume{}, images: map[string]int64{}}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(requestsAtOnce)
	// Volumes lie in two levels of folders named by a checksum. Each level is listed
	// by itself, since a task of a full group must not wait for another one.
	first, err := names(ctx, store, target.VolumesPrefix)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var folders []string
	for _, a := range first {
		g.Go(func() error {
			second, err := names(gctx, store, target.VolumesPrefix+a+"/")
			mu.Lock()
			defer mu.Unlock()
			for _, b := range second {
				folders = append(folders, target.VolumesPrefix+a+"/"+b+"/")
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	g, gctx = errgroup.WithContext(ctx)
	g.SetLimit(requestsAtOnce)
	for _, folder := range folders {
		g.Go(func() error {
			volumes, err := names(gctx, store, folder)
			for _, volume := range volumes {
				if err == nil {
					err = x.addVolume(gctx, store, folder, volume)
				}
			}
			return err
		})
	}
	images, err := names(ctx, store, target.BackingImagesPrefix)
	for _, image := range images {
		g.Go(func() error { return x.addImage(gctx, store, image) })
	}
	if waitErr := g.Wait(); waitErr != nil {
		return nil, waitErr
	}
	return x, err
}

// names are the folders below a prefix.
func names(ctx context.Context, store target.Store, prefix string) (names []string, err error) {
	err = target.Folders(ctx, store, prefix, func(name string) error {
		names = append(names, name)
		return nil
	})
	return names, err
}

func (x *index) addVolume(ctx context.Context, store target.Store, folder, name string) error {
	if target.VolumePrefix(name) != folder+name+"/" {
		return nil // nobody looks for a volume there
	}
	v := &storedVolume{backups: map[string]bool{}}
	err := store.List(ctx, target.BackupsPrefix(name), func(o target.Object) error {
		file := strings.TrimPrefix(o.Key, target.BackupsPrefix(name))
		if backup, found := strings.CutPrefix(file, "backup_"); found {
			if backup, found = strings.CutSuffix(backup, ".cfg"); found {
				v.backups[backup] = false
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var config struct {
		BlockCount string
		Labels     map[string]string
	}
	bad, err := readConfig(ctx, store, target.VolumeConfigKey(name), volumeConfigLimit, &config)
	if err != nil {
		return err
	}
	if blocks, err := strconv.ParseInt(config.BlockCount, 10, 64); err == nil && blocks > 0 && blocks < 1<<40 {
		v.bytes = blocks * blockSize
	}
	v.claim = claimOf(config.Labels["KubernetesStatus"])
	x.mu.Lock()
	defer x.mu.Unlock()
	if bad != "" {
		x.broken = append(x.broken, vmbackup.TargetFile{Path: target.VolumeConfigKey(name), Reason: bad})
	}
	x.volumes[name] = v
	x.backups += len(v.backups)
	return nil
}

// claimOf is the claim in what Longhorn notes of a volume in Kubernetes.
func claimOf(status string) string {
	var noted struct {
		Namespace string `json:"namespace"`
		Claim     string `json:"pvcName"`
	}
	if err := json.Unmarshal([]byte(status), &noted); err != nil || noted.Claim == "" {
		return ""
	}
	return noted.Namespace + "/" + noted.Claim
}

func (x *index) addImage(ctx context.Context, store target.Store, name string) error {
	var config struct{ Size string }
	key := target.BackingImageConfigKey(name)
	if _, err := store.Stat(ctx, key); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil // a folder without a description is no backup of an image
	}
	bad, err := readConfig(ctx, store, key, imageConfigLimit, &config)
	if err != nil {
		return err
	}
	bytes, err := strconv.ParseInt(config.Size, 10, 64)
	if err != nil || bytes < 0 {
		bytes = -1
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if bad != "" {
		x.broken = append(x.broken, vmbackup.TargetFile{Path: key, Reason: bad})
	}
	x.images[name] = bytes
	return nil
}

// readConfig reads one of Longhorn's descriptions. bad says what is wrong with the
// file; err is the target's.
func readConfig(ctx context.Context, store target.Store, key string, limit int64, into any) (bad string, err error) {
	content, err := store.Get(ctx, key, limit)
	switch vmbackup.ReasonOf(err) {
	case "":
	case vmbackup.ReasonNotFound:
		return "it is not there", nil
	case vmbackup.ReasonInvalidRequest:
		return "it is too large to be one", nil
	default:
		return "", err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return "no description by Longhorn: " + err.Error(), nil //nolint:nilerr // it is told, and hides nothing else
	}
	return "", nil
}
