#!/usr/bin/env bash
# Prints the path of a kubectl built from hack/tools/kubectl.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(go -C hack/tools/kubectl list -m -f '{{.Version}}' k8s.io/kubectl)
# Published as v0.X.Y, a library of Kubernetes belongs to Kubernetes v1.X.Y.
exec hack/tool.sh hack/tools/kubectl github.com/vmbackup/kubectl-vmbackup/hack/tools/kubectl \
  "-X k8s.io/component-base/version.gitVersion=v1.${version#v0.}"
