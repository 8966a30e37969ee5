// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecodeTarget(t *testing.T) {
	setting := func(value, fallback string) *Setting {
		return &Setting{ObjectMeta: metav1.ObjectMeta{Name: BackupTargetSetting}, Value: value, Default: fallback}
	}
	const s3 = `{"type":"s3","endpoint":"https://s3.example","accessKeyId":"","secretAccessKey":"","bucketName":"b","bucketRegion":"r","cert":"","virtualHostedStyle":true,"refreshIntervalInSeconds":60}`
	want := Target{Type: TargetS3, Endpoint: "https://s3.example", BucketName: "b", BucketRegion: "r", VirtualHostedStyle: true, RefreshIntervalInSeconds: 60}
	for _, s := range []*Setting{setting(s3, ""), setting("", s3)} {
		got, err := DecodeTarget(s)
		if err != nil || got == nil || *got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	for _, value := range []string{"", `{"type":"","endpoint":""}`} {
		if got, err := DecodeTarget(setting(value, "")); got != nil || err != nil {
			t.Errorf("%q: %+v, %v; want no target", value, got, err)
		}
	}
	got, err := DecodeTarget(setting(`{"secretAccessKey":"SECRET"`, ""))
	if err == nil || got != nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "settings.harvesterhci.io backup-target") {
		t.Errorf("a damaged value: %+v, %v", got, err)
	}
}

func TestSameTarget(t *testing.T) {
	target := &Target{Type: TargetS3, Endpoint: "https://s3.example", BucketName: "b", BucketRegion: "r"}
	same := BackupTarget{Endpoint: "https://s3.example", BucketName: "b", BucketRegion: "r"}
	if !target.Same(&same) {
		t.Error("the same target is another")
	}
	for _, other := range []BackupTarget{
		{Endpoint: "https://other.example", BucketName: "b", BucketRegion: "r"},
		{Endpoint: "https://s3.example", BucketName: "c", BucketRegion: "r"},
		{Endpoint: "https://s3.example", BucketName: "b", BucketRegion: "q"},
	} {
		if target.Same(&other) {
			t.Errorf("%+v is the same", other)
		}
	}
	if target.Same(nil) || (*Target)(nil).Same(&same) {
		t.Error("no target is the same as one")
	}
}
