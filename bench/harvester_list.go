// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// listed is how many backups are listed.
	listed = 5000
	// listGoal and listMemoryGoal are the listing's time and peak memory relative to
	// those of kubectl's table, which shows no more than Harvester's objects say.
	listGoal, listMemoryGoal = 2.0, 1.0
	// listRounds are taken in turns.
	listRounds = 3
)

// measureListing lists thousands of Harvester's backups with the plugin and with
// kubectl. It stops whatever would act on them, so that the sandbox is of no use afterwards.
func (s *sandbox) measureListing(ctx context.Context, p *programs, backup string, r *report) error {
	acting := []string{"harvester", "harvester-webhook", "longhorn-manager", "longhorn-csi-plugin", "csi-snapshotter", "csi-provisioner", "snapshot-controller"}
	if _, err := s.run(ctx, append([]string{"component", "stop"}, acting...)...); err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return err
	}
	for _, kind := range []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"} {
		webhooks := client.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: kind})
		if err := webhooks.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return fmt.Errorf("delete %s: %w", kind, err)
		}
	}
	if err := seedBackups(ctx, s.config, benchNamespace, backup, listed); err != nil {
		return err
	}
	kubeconfig := filepath.Join(filepath.Dir(s.kubeconfig), "direct")
	if err := s.writeKubeconfig(kubeconfig); err != nil {
		return err
	}
	took, memory := map[string][]float64{}, map[string][]float64{}
	for range listRounds {
		for name, command := range map[string][]string{
			"kubectl": {p.kubectl, "get", "virtualmachinebackups.harvesterhci.io", "-A"},
			"plugin":  {p.plugin, "list", "-A"},
		} {
			cmd := exec.CommandContext(ctx, command[0], append(command[1:], "--kubeconfig", kubeconfig)...)
			began := time.Now()
			output, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%s: %w", cmd, err)
			}
			if len(output) < listed {
				return fmt.Errorf("%s has listed nothing like %d backups", cmd, listed)
			}
			took[name] = append(took[name], time.Since(began).Seconds())
			if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				memory[name] = append(memory[name], float64(usage.Maxrss)/1024)
			}
		}
	}
	how := fmt.Sprintf("median of %d in turns; the plugin also looks at Longhorn's backups of all volumes", listRounds)
	name := fmt.Sprintf("list of %d backups of Harvester's: ", listed)
	r.add(name+"kubectl get", median(took["kubectl"]), "s", how)
	r.add(name+"plugin", median(took["plugin"]), "s", how)
	r.addGoal(name+"relative to kubectl", median(took["plugin"])/median(took["kubectl"]), listGoal, "x", how)
	r.add(name+"peak memory of kubectl", median(memory["kubectl"]), "MiB", how)
	r.add(name+"peak memory", median(memory["plugin"]), "MiB", how)
	r.addGoal(name+"peak memory relative to kubectl", median(memory["plugin"])/median(memory["kubectl"]), listMemoryGoal, "x", how)
	return nil
}

// writeKubeconfig writes a kubeconfig of the sandbox itself, past the counting proxy.
func (s *sandbox) writeKubeconfig(path string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["sandbox"] = &clientcmdapi.Cluster{Server: s.config.Host, CertificateAuthorityData: s.config.CAData}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: s.config.CertData, ClientKeyData: s.config.KeyData, Token: s.config.BearerToken}
	config.Contexts["sandbox"] = &clientcmdapi.Context{Cluster: "sandbox", AuthInfo: "admin"}
	config.CurrentContext = "sandbox"
	return clientcmd.WriteToFile(*config, path)
}
