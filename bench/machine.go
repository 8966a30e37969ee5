// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	kubevirtv1 "kubevirt.io/api/core/v1"
	kubevirt "kubevirt.io/client-go/kubevirt"
)

// storageClass is the sandbox's: Longhorn with one replica.
const storageClass = "longhorn-1r"

// makeMachine makes a machine with so many disks of 16 MiB and waits until its
// guest agent answers, so that a backup freezes it.
func (s *sandbox) makeMachine(ctx context.Context, name string, disks int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	core, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}
	if _, err := core.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", benchNamespace, err)
	}
	for n := range disks {
		if _, err := core.CoreV1().PersistentVolumeClaims(benchNamespace).Create(ctx, claim(diskName(name, n)), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create PersistentVolumeClaim %s: %w", diskName(name, n), err)
		}
	}
	machines, err := kubevirt.NewForConfig(s.config)
	if err != nil {
		return err
	}
	if _, err := machines.KubevirtV1().VirtualMachines(benchNamespace).Create(ctx, machine(name, disks), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create VirtualMachine %s: %w", name, err)
	}
	instances, err := machines.KubevirtV1().VirtualMachineInstances(benchNamespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(),
	})
	if err != nil {
		return fmt.Errorf("watch VirtualMachineInstance %s: %w", name, err)
	}
	defer instances.Stop()
	return untilAgentAnswers(ctx, instances, name)
}

func untilAgentAnswers(ctx context.Context, instances watch.Interface, name string) error {
	phase := kubevirtv1.VmPhaseUnset
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest agent of VirtualMachineInstance %s (phase %q): %w", name, phase, ctx.Err())
		case event, open := <-instances.ResultChan():
			if !open {
				return fmt.Errorf("the watch of VirtualMachineInstance %s ended", name)
			}
			instance, ok := event.Object.(*kubevirtv1.VirtualMachineInstance)
			if !ok {
				continue
			}
			phase = instance.Status.Phase
			for _, c := range instance.Status.Conditions {
				if phase == kubevirtv1.Running && c.Type == kubevirtv1.VirtualMachineInstanceAgentConnected && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
		}
	}
}

func diskName(machine string, n int) string { return fmt.Sprintf("%s-disk-%d", machine, n) }

func claim(name string) *corev1.PersistentVolumeClaim {
	class, mode := storageClass, corev1.PersistentVolumeBlock
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeMode:       &mode,
			StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")},
			},
		},
	}
}

func machine(name string, disks int) *kubevirtv1.VirtualMachine {
	always, memory := kubevirtv1.RunStrategyAlways, resource.MustParse("64Mi")
	spec := kubevirtv1.VirtualMachineInstanceSpec{
		Domain: kubevirtv1.DomainSpec{
			Memory:    &kubevirtv1.Memory{Guest: &memory},
			Resources: kubevirtv1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: memory}},
		},
	}
	for n := range disks {
		disk := fmt.Sprintf("disk-%d", n)
		spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, kubevirtv1.Disk{
			Name:       disk,
			DiskDevice: kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}},
		})
		spec.Volumes = append(spec.Volumes, kubevirtv1.Volume{
			Name: disk,
			VolumeSource: kubevirtv1.VolumeSource{PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{
				PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: diskName(name, n)},
			}},
		})
	}
	return &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: kubevirtv1.VirtualMachineSpec{
			RunStrategy: &always,
			Template:    &kubevirtv1.VirtualMachineInstanceTemplateSpec{Spec: spec},
		},
	}
}
