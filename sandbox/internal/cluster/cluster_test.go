// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/pki"
)

// The whole set must be startable, its programs must be in the build table,
// and no argument may hold what others on the machine must not see.
func TestComponents(t *testing.T) {
	sets := map[string]int{}
	for _, profile := range []string{component.Default, component.Harvester} {
		t.Run(profile, func(t *testing.T) { sets[profile] = testComponents(t, profile) })
	}
	if sets[component.Default] >= sets[component.Harvester] {
		t.Errorf("components of the profiles: %v", sets)
	}
}

// testComponents returns the number of components of a profile.
func testComponents(t *testing.T, profile string) int {
	env := &component.Env{Name: "test", Profile: profile, Dir: t.TempDir(), Executable: "/sandbox", Families: map[string]string{}}
	built := map[string]bool{"/sandbox": true, "/usr/local/sbin/iscsid": true, "/usr/bin/unshare": true}
	for _, f := range build.FamiliesOf(profile) {
		env.Families[f.Name] = "/cache/" + f.Name
		for _, p := range f.Programs {
			built[env.Binary(f.Name, p.Name)] = true
		}
	}
	if err := os.Mkdir(env.Path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Create(env.Path("pki"), "ca", "test"); err != nil {
		t.Fatal(err)
	}
	credentials := component.S3Credentials{AccessKeyID: "KEYKEYKEY", SecretAccessKey: "SECRETSECRET"}
	if err := component.WriteS3Credentials(env, credentials); err != nil {
		t.Fatal(err)
	}
	set, err := Components(env)
	if err != nil {
		t.Fatal(err)
	}
	if err := component.Validate(set); err != nil {
		t.Error(err)
	}
	for _, c := range set {
		if c.About == "" {
			t.Errorf("%s does not say what it is", c.Name)
		}
		if c.Path != "" && !built[c.Path] {
			t.Errorf("%s runs %s, which nothing builds", c.Name, c.Path)
		}
		arguments := strings.Join(c.Args, " ")
		if strings.Contains(arguments, credentials.AccessKeyID) || strings.Contains(arguments, credentials.SecretAccessKey) {
			t.Errorf("%s has credentials in its arguments", c.Name)
		}
		standIn := c.Path == env.Executable || filepath.Base(c.Path) == "iscsid"
		if standIn != (c.Role == component.StandIn) {
			t.Errorf("%s is called %s and runs %s", c.Name, c.Role, c.Path)
		}
	}
	return len(set)
}

func TestManifestsDecode(t *testing.T) {
	for file, want := range map[string]string{"cluster.yaml": "StorageClass longhorn-1r", "longhorn.yaml": "Service longhorn-admission-webhook"} {
		data, err := objects.ReadFile("objects/" + file)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := manifest.Decode(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		found := false
		for _, o := range decoded {
			found = found || o.GetKind()+" "+o.GetName() == want
			if o.GetKind() == "VolumeSnapshotClass" {
				t.Errorf("%s: has a VolumeSnapshotClass, which must be found or made by the tool", file)
			}
		}
		if !found {
			t.Errorf("%s: lacks %s", file, want)
		}
	}
}
