// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubevirt-manifests prints, as a YAML stream, the objects that
// KubeVirt's operator would install: custom resource definitions, service
// accounts, roles, webhook configurations, aggregated API services and a
// KubeVirt object. They come from the operator's own generators of the pinned
// release, so that the sandbox has no copy that could age. The webhooks and
// API services still name KubeVirt's in-cluster Service; who installs them
// points them at the running process.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	goruntime "runtime"

	corev1 "k8s.io/api/core/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	virtv1 "kubevirt.io/api/core/v1"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

func main() {
	namespace := flag.String("namespace", "kubevirt", "namespace that KubeVirt is installed into")
	flag.Parse()
	out := bufio.NewWriter(os.Stdout)
	err := write(out, *namespace)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubevirt-manifests:", err)
		os.Exit(1)
	}
}

// write prints every object; definitions come before the objects that need them.
func write(out io.Writer, namespace string) error {
	objects, err := definitions()
	if err != nil {
		return err
	}
	objects = append(objects, dataVolumeDefinitions()...)
	objects = append(objects,
		&corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{
				Name: namespace,
				Labels: map[string]string{
					"kubevirt.io":                        "",
					"pod-security.kubernetes.io/enforce": "privileged",
				},
			},
		},
		components.NewKubeVirtPriorityClassCR(),
	)
	for _, group := range [][]runtime.Object{
		rbac.GetAllCluster(),
		rbac.GetAllApiServer(namespace),
		rbac.GetAllController(namespace),
		rbac.GetAllHandler(namespace),
	} {
		objects = append(objects, group...)
	}
	for _, configMap := range components.NewCAConfigMaps(namespace) {
		objects = append(objects, configMap)
	}
	objects = append(objects,
		kubeVirt(namespace),
		components.NewVirtAPIMutatingWebhookConfiguration(namespace),
		components.NewVirtAPIValidatingWebhookConfiguration(namespace),
	)
	for _, service := range components.NewVirtAPIAPIServices(namespace) {
		objects = append(objects, service)
	}
	for _, object := range objects {
		if err := writeObject(out, object); err != nil {
			return err
		}
	}
	return nil
}

// definitions are all custom resource definitions of the release.
func definitions() ([]runtime.Object, error) {
	var objects []runtime.Object
	for _, generate := range []func() (*extv1.CustomResourceDefinition, error){
		components.NewVirtualMachineInstanceCrd,
		components.NewPresetCrd,
		components.NewReplicaSetCrd,
		components.NewVirtualMachineCrd,
		components.NewVirtualMachineInstanceMigrationCrd,
		components.NewKubeVirtCrd,
		components.NewVirtualMachinePoolCrd,
		components.NewVirtualMachineSnapshotCrd,
		components.NewVirtualMachineSnapshotContentCrd,
		components.NewVirtualMachineRestoreCrd,
		components.NewVirtualMachineExportCrd,
		components.NewVirtualMachineInstancetypeCrd,
		components.NewVirtualMachineClusterInstancetypeCrd,
		components.NewVirtualMachinePreferenceCrd,
		components.NewVirtualMachineClusterPreferenceCrd,
		components.NewMigrationPolicyCrd,
		components.NewVirtualMachineCloneCrd,
	} {
		crd, err := generate()
		if err != nil {
			return nil, fmt.Errorf("generate a custom resource definition: %w", err)
		}
		crd.TypeMeta = metav1.TypeMeta{APIVersion: extv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"}
		objects = append(objects, crd)
	}
	return objects, nil
}

// kubeVirt is the one KubeVirt object. Its status says Deployed, as the
// operator, which the sandbox does not run, would say after installing the rest.
func kubeVirt(namespace string) runtime.Object {
	return &virtv1.KubeVirt{
		TypeMeta:   metav1.TypeMeta{APIVersion: virtv1.GroupVersion.String(), Kind: "KubeVirt"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubevirt", Namespace: namespace},
		Spec: virtv1.KubeVirtSpec{
			Configuration: virtv1.KubeVirtConfiguration{
				DeveloperConfiguration: &virtv1.DeveloperConfiguration{
					// No node has /dev/kvm, and no guest is executed.
					UseEmulation: true,
					FeatureGates: []string{"HotplugVolumes", "Snapshot"},
				},
			},
		},
		Status: virtv1.KubeVirtStatus{
			Phase:               virtv1.KubeVirtPhaseDeployed,
			DefaultArchitecture: goruntime.GOARCH,
		},
	}
}

func writeObject(out io.Writer, object runtime.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return fmt.Errorf("convert %s: %w", object.GetObjectKind().GroupVersionKind(), err)
	}
	prune(content)
	data, err := yaml.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode %s: %w", object.GetObjectKind().GroupVersionKind(), err)
	}
	_, err = fmt.Fprintf(out, "---\n%s", data)
	return err
}

// prune removes what the Go types encode but nobody sets: null timestamps and
// the status of everything but the KubeVirt object.
func prune(content map[string]interface{}) {
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(content, "spec", "template", "metadata", "creationTimestamp")
	if content["kind"] != "KubeVirt" {
		delete(content, "status")
	}
}
