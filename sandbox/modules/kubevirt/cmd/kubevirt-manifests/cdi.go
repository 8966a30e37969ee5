// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
)

// dataVolumeDefinitions are the kinds of the containerized data importer that
// KubeVirt reads; without them it would treat every DataVolume reference as an
// error. The names are the importer's own, the schemas accept every field: its
// own definitions are not in the module of its API types.
func dataVolumeDefinitions() []runtime.Object {
	kinds := []struct {
		kind, singular, plural string
		short                  []string
		scope                  extv1.ResourceScope
	}{
		{"DataVolume", "datavolume", "datavolumes", []string{"dv", "dvs"}, extv1.NamespaceScoped},
		{"DataSource", "datasource", "datasources", []string{"das"}, extv1.NamespaceScoped},
		{"DataImportCron", "dataimportcron", "dataimportcrons", []string{"dic", "dics"}, extv1.NamespaceScoped},
		{"StorageProfile", "storageprofile", "storageprofiles", nil, extv1.ClusterScoped},
		{"CDI", "cdi", "cdis", nil, extv1.ClusterScoped},
		{"CDIConfig", "cdiconfig", "cdiconfigs", nil, extv1.ClusterScoped},
	}
	group := cdiv1.SchemeGroupVersion
	var objects []runtime.Object
	for _, k := range kinds {
		open := true
		schema := extv1.JSONSchemaProps{
			Type: "object",
			Properties: map[string]extv1.JSONSchemaProps{
				"spec":   {Type: "object", XPreserveUnknownFields: &open},
				"status": {Type: "object", XPreserveUnknownFields: &open},
			},
		}
		objects = append(objects, &extv1.CustomResourceDefinition{
			TypeMeta:   metav1.TypeMeta{APIVersion: extv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"},
			ObjectMeta: metav1.ObjectMeta{Name: k.plural + "." + group.Group},
			Spec: extv1.CustomResourceDefinitionSpec{
				Group: group.Group,
				Scope: k.scope,
				Names: extv1.CustomResourceDefinitionNames{
					Kind: k.kind, ListKind: k.kind + "List", Plural: k.plural, Singular: k.singular, ShortNames: k.short,
				},
				Versions: []extv1.CustomResourceDefinitionVersion{{
					Name: group.Version, Served: true, Storage: true,
					Schema: &extv1.CustomResourceValidation{OpenAPIV3Schema: &schema},
				}},
			},
		})
	}
	return objects
}
