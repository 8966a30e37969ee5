// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
)

// Interface reads and writes Harvester's objects.
type Interface interface {
	Backups(namespace string) Backups
	Restores(namespace string) Restores
	Images(namespace string) Images
	Schedules(namespace string) Schedules
	// Settings are cluster-scoped.
	Settings() Settings
}

// The clients of the kinds. An object is never updated as a whole, which would
// drop what this build does not know of it: a change is a patch.
type (
	// Backups is the client of VirtualMachineBackups.
	Backups = objects[*VirtualMachineBackup, *VirtualMachineBackupList]
	// Restores is the client of VirtualMachineRestores.
	Restores = objects[*VirtualMachineRestore, *VirtualMachineRestoreList]
	// Images is the client of VirtualMachineImages.
	Images = objects[*VirtualMachineImage, *VirtualMachineImageList]
	// Schedules is the client of ScheduleVMBackups.
	Schedules = objects[*ScheduleVMBackup, *ScheduleVMBackupList]
	// Settings is the client of Settings.
	Settings = objects[*Setting, *SettingList]
)

// objects is what can be done with the objects of one kind.
type objects[T, L any] interface {
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
	Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

// Client is Interface over a connection to the API server.
type Client struct {
	rest       rest.Interface
	parameters runtime.ParameterCodec
}

// NewClient makes the client of a cluster over an existing connection, whose rate
// limit config carries.
func NewClient(config *rest.Config, client *http.Client) (*Client, error) {
	scheme := newScheme()
	config = rest.CopyConfig(config)
	gv := GroupVersion()
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	c, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	return &Client{rest: c, parameters: runtime.NewParameterCodec(scheme)}, nil
}

// Backups implements Interface.
func (c *Client) Backups(namespace string) Backups {
	return gentype.NewClientWithList(BackupResource, c.rest, c.parameters, namespace,
		func() *VirtualMachineBackup { return &VirtualMachineBackup{} },
		func() *VirtualMachineBackupList { return &VirtualMachineBackupList{} })
}

// Restores implements Interface.
func (c *Client) Restores(namespace string) Restores {
	return gentype.NewClientWithList(RestoreResource, c.rest, c.parameters, namespace,
		func() *VirtualMachineRestore { return &VirtualMachineRestore{} },
		func() *VirtualMachineRestoreList { return &VirtualMachineRestoreList{} })
}

// Images implements Interface.
func (c *Client) Images(namespace string) Images {
	return gentype.NewClientWithList(ImageResource, c.rest, c.parameters, namespace,
		func() *VirtualMachineImage { return &VirtualMachineImage{} },
		func() *VirtualMachineImageList { return &VirtualMachineImageList{} })
}

// Schedules implements Interface.
func (c *Client) Schedules(namespace string) Schedules {
	return gentype.NewClientWithList(ScheduleResource, c.rest, c.parameters, namespace,
		func() *ScheduleVMBackup { return &ScheduleVMBackup{} },
		func() *ScheduleVMBackupList { return &ScheduleVMBackupList{} })
}

// Settings implements Interface.
func (c *Client) Settings() Settings {
	return gentype.NewClientWithList(SettingResource, c.rest, c.parameters, "",
		func() *Setting { return &Setting{} },
		func() *SettingList { return &SettingList{} })
}
