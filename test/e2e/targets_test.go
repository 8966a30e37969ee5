// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
)

// testTargets sets up a second backup target in a bucket of its own, and goes through
// all that can be done with it, beside the default one that other tests use.
func (s *suite) testTargets(t *testing.T) {
	_, keys := s.target(t)
	bucket := strings.ReplaceAll(s.namespace(t, "targets"), "_", "-")
	s.makeBucket(t, bucket, keys)
	url := "s3://" + bucket + "@us-east-1/"
	content, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	name := bucket
	t.Cleanup(func() { s.dropTarget(t, name) })
	discreet := func(got result) result {
		t.Helper()
		if secret := keys["AWS_SECRET_ACCESS_KEY"]; strings.Contains(got.stdout+got.stderr, secret) {
			t.Fatal("the secret key is printed")
		}
		return got
	}

	// Before it is set.
	if got := discreet(s.want(t, 0, "target", "check", "--url", url, "--credentials", file)); !strings.Contains(got.stdout, "not one file lies there") {
		t.Errorf("check of an empty bucket: %s", got)
	}
	s.want(t, 0, "target", "set", name, url, "--credentials", file, "--dry-run=client")
	s.refused(t, []string{"nothing was changed", "bucket"}, "target", "set", name, "s3://"+bucket+"-none@us-east-1/", "--credentials", file)
	s.refused(t, []string{"--skip-check"}, "target", "set", name, "nfs://127.0.0.1:/none")
	if _, err := s.in(backupTargets, longhornNamespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil {
		t.Fatal("a dry run, or a refusal, has made a backup target")
	}

	began := time.Now()
	if got := discreet(s.want(t, 0, "target", "set", name, url, "--credentials", file, "--poll-interval", "0s")); got.stdout != "target.vmbackup.io/"+name+" created\n" {
		t.Errorf("set: %s", got)
	}
	t.Logf("set and available after %.1f s", time.Since(began).Seconds())
	if got := s.want(t, 0, "target", "set", name, url, "--credentials", file); got.stdout != "target.vmbackup.io/"+name+" unchanged\n" {
		t.Errorf("set again: %s", got)
	}
	if got := discreet(s.want(t, 0, "target", "show", name, "-o", "jsonpath={.status.state} {.status.credentials.state} {.spec.url}")); got.stdout != "Available Ready "+url {
		t.Errorf("show: %s", got)
	}
	if got := s.want(t, 0, "target", "check", name); !strings.Contains(got.stdout, "can use it") {
		t.Errorf("check: %s", got)
	}
	// Longhorn takes a URL once only.
	s.refused(t, []string{name}, "target", "set", name+"-b", url, "--credentials", file)

	s.testWrongKeys(t, name, url, file, keys)
	s.testFoundByLonghorn(t, name, url, keys)
	s.testHidden(t, name, url, file)
}

// testWrongKeys gives the target keys that the server refuses: that is seen before
// anything is changed, or, unproved, told by Longhorn at once.
func (s *suite) testWrongKeys(t *testing.T, name, url, file string, keys map[string]string) {
	t.Helper()
	wrong := maps.Clone(keys)
	wrong["AWS_SECRET_ACCESS_KEY"] = "not-the-right-one"
	content, err := json.Marshal(wrong)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "wrong.json")
	if err := os.WriteFile(bad, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.refused(t, []string{"nothing was changed", "AWS_SECRET_ACCESS_KEY"}, "target", "set", name, url, "--credentials", bad)
	began := time.Now()
	got := s.run(t, "target", "set", name, url, "--credentials", bad, "--skip-check", "--timeout", "60s")
	if got.code != 1 || !strings.Contains(got.stderr, "is set, but Longhorn cannot use") || strings.Contains(got.stdout+got.stderr, "not-the-right-one") {
		t.Errorf("wrong keys, unproved: %s", got)
	}
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("Longhorn's refusal was told after %s", took)
	}
	if got := s.run(t, "target", "check", name); got.code != 1 || !strings.Contains(got.stdout, "cannot use it") {
		t.Errorf("check with wrong keys: %s", got)
	}
	s.want(t, 0, "target", "set", name, url, "--credentials", file)
}

// testFoundByLonghorn puts what another cluster would have written on the target.
func (s *suite) testFoundByLonghorn(t *testing.T, name, url string, keys map[string]string) {
	t.Helper()
	data := map[string][]byte{}
	for key, value := range keys {
		data[key] = []byte(value)
	}
	store, err := target.Open(target.Config{URL: url, Credentials: data})
	if err != nil {
		t.Fatal(err)
	}
	const volume, backup = "pvc-of-another-cluster", "backup-0123456789abcdef"
	for key, text := range map[string]string{
		target.VolumeConfigKey(volume): `{"Name":"` + volume + `","Size":"67108864","Labels":{"KubernetesStatus":"{\"namespace\":\"far\",\"pvcName\":\"disk\"}"},"CreatedTime":"2026-01-02T03:04:05Z","LastBackupName":"` + backup +
			`","LastBackupAt":"2026-01-02T03:04:05Z","BlockCount":"4","BackingImageName":"\"\"","BackingImageChecksum":"\"\"","CompressionMethod":"\"lz4\"","StorageClassName":"\"longhorn\"","DataEngine":"\"v1\""}`,
		target.BackupConfigKey(volume, backup): `{"Name":"` + backup + `","VolumeName":"` + volume + `","SnapshotName":"snapshot-1","SnapshotCreatedAt":"2026-01-02T03:04:05Z","CreatedTime":"2026-01-02T03:04:06Z","Size":"8388608","Labels":{},` +
			`"Parameters":{"backup-block-size":"2097152","backup-mode":"incremental"},"IsIncremental":false,"CompressionMethod":"lz4","NewlyUploadedDataSize":"1","ReUploadedDataSize":"0","ProcessingBlocks":{},"Blocks":[],"SingleFile":{"FilePath":""}}`,
		"harvester/vmbackups/far/cut.cfg": `{"name":"cut","name`,
	} {
		if err := store.Put(t.Context(), key, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got := s.want(t, 3, "target", "contents", name, "-o", "jsonpath={.status.orphans[0].name} {.status.orphans[0].claim} {.status.orphans[0].bytes} {.status.broken[0].path} {.status.blocksHarvester}")
	if want := volume + " far/disk 8388608 harvester/vmbackups/far/cut.cfg true"; got.stdout != want {
		t.Errorf("contents, want %q: %s", want, got)
	}
	began := time.Now()
	if got := s.want(t, 0, "target", "sync", name, "-o", "jsonpath={.status.appeared[?(@.kind=='Backup')].name} {.status.holds.backups}"); got.stdout != backup+" 1" {
		t.Errorf("sync: %s", got)
	}
	t.Logf("synced after %.1f s", time.Since(began).Seconds())
	if got := s.want(t, 0, "target", "sync", name, "-o", "jsonpath={.status.appeared}"); got.stdout != "" {
		t.Errorf("a second sync: %s", got)
	}
}

// testHidden moves the target to another folder: what lies in the first one is listed no
// more, is not deleted, and comes back with it.
func (s *suite) testHidden(t *testing.T, name, url, file string) {
	t.Helper()
	moved := url + "moved/"
	got := s.run(t, "target", "set", name, moved, "--credentials", file)
	if got.code != 2 || !strings.Contains(got.stderr, "hides 1 backups") || !strings.Contains(got.stderr, "come back") {
		t.Errorf("hiding a backup without a yes: %s", got)
	}
	if at := text(s.get(t, backupTargets, longhornNamespace, name), "spec", "backupTargetURL"); at != url {
		t.Fatalf("without a yes the URL is %s", at)
	}
	s.want(t, 0, "target", "set", name, moved, "--credentials", file, "--yes")
	s.wait(t, backupTargets, longhornNamespace, name, "moved", func(o *unstructured.Unstructured) bool {
		return o != nil && text(o, "spec", "backupTargetURL") == moved
	})
	if got := s.want(t, 0, "target", "sync", name, "-o", "jsonpath={.status.holds.backups}"); got.stdout != "0" {
		t.Errorf("after moving: %s", got)
	}
	s.want(t, 0, "target", "set", name, url)
	if got := s.want(t, 0, "target", "sync", name, "-o", "jsonpath={.status.holds.backups}"); got.stdout != "1" {
		t.Errorf("after moving back: %s", got)
	}
}

// makeBucket makes a bucket on the sandbox's S3 server, and empties it at the end.
func (s *suite) makeBucket(t *testing.T, bucket string, keys map[string]string) {
	t.Helper()
	client, err := minio.New(strings.TrimPrefix(keys["AWS_ENDPOINTS"], "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], ""), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: "us-east-1"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := client.RemoveBucketWithOptions(ctx, bucket, minio.RemoveBucketOptions{ForceDelete: true}); err == nil {
			return
		}
		for o := range client.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
			if o.Err == nil {
				_ = client.RemoveObject(ctx, bucket, o.Key, minio.RemoveObjectOptions{})
			}
		}
		if err := client.RemoveBucket(ctx, bucket); err != nil {
			t.Logf("bucket %s is left: %v", bucket, err)
		}
	})
}

// dropTarget removes a backup target with its Secret, if they are there.
func (s *suite) dropTarget(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	_ = s.in(backupTargets, longhornNamespace).Delete(ctx, name, metav1.DeleteOptions{})
	_ = s.in(secrets, longhornNamespace).Delete(ctx, "vmbackup-target-"+name, metav1.DeleteOptions{})
}

// testHarvesterTarget sees the target of Harvester's setting, and has both look at it.
func (s *suite) testHarvesterTarget(t *testing.T) {
	if got := s.want(t, 0, "target", "show", "default", "-o", "jsonpath={.status.state} {.status.harvester.state}"); got.stdout != "Available Ready" {
		t.Errorf("show: %s", got)
	}
	before := s.want(t, 0, "target", "show", "default", "-o", "jsonpath={.status.harvester.lastRefreshedAt}").stdout
	got := s.want(t, 0, "target", "sync", "-o", "jsonpath={.status.harvesterRefreshedAt}")
	if got.stdout == "" || got.stdout < before {
		t.Errorf("refreshed at %s before: %s", before, got)
	}
	url, _ := s.target(t)
	if got := s.want(t, 0, "target", "set", url); got.stdout != "target.vmbackup.io/default unchanged\n" {
		t.Errorf("set to what it is: %s", got)
	}
}
