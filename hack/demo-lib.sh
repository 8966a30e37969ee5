#!/usr/bin/env bash
# What the demos share: how they tell their steps, and how they end. A demo sources
# this file, names its sandboxes in `instances`, in the order in which they can be
# taken down, and calls `begin "$@"`. That gives it $scratch, a directory that goes
# with it, and PATH with the plugin and kubectl.
# shellcheck disable=SC2034 # what the demos use

began=$SECONDS
step=0
instances=()

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
  strong=$'\e[1m' plain=$'\e[0m'
else
  strong='' plain=''
fi
say() { # what the next commands do, for a reader
  step=$((step + 1))
  printf '\n%s%d. %s%s\n' "$strong" "$step" "$1" "$plain"
  shift
  for line in "$@"; do printf '   %s\n' "$line"; done
}
run() { # shows a command as a user types it, and runs it
  printf '\n%s$ %s%s\n' "$strong" "$*" "$plain"
  "$@"
}
warned() { # as run, for a command that may end with warnings
  local code=0
  run "$@" || code=$?
  case $code in
    0) ;;
    3) printf '   (exit code 3: done, with the warnings above)\n' ;;
    *) return "$code" ;;
  esac
}
sandbox() { bin/sandbox --name "${instances[0]}" "$@"; } # the demo's first one
apply() {                                                # makes what is in the file, and shows it
  printf '\n%s$ kubectl create -f - <<EOF%s\n' "$strong" "$plain"
  cat "$1"
  printf '%sEOF%s\n' "$strong" "$plain"
  kubectl create -f "$1"
}
fail() {
  printf '\n%sThe demo failed: %s%s\n' "$strong" "$1" "$plain" >&2
  exit 1
}
cloud_init() { # NAMESPACE VM: a digest of the Secret that the machine refers to
  local secret
  secret=$(kubectl get virtualmachine "$2" -n "$1" \
    -o jsonpath='{.spec.template.spec.volumes[*].cloudInitNoCloud.secretRef.name}')
  kubectl get secret "$secret" -n "$1" -o jsonpath='{.data.userdata}{.data.networkdata}' | sha256sum
}
done_in() { printf '\n%sDone in %d s.%s\n' "$strong" "$((SECONDS - began))" "$plain"; }

finish() {
  local code=$? name
  if [ "$code" -ne 0 ]; then
    for name in "${instances[@]}"; do
      bin/sandbox --name "$name" status 2>/dev/null | awk 'NR == 1 || $3 != "ready"' >&2 || true
    done
    hack/sandbox-logs.sh 2>/dev/null | tail -n 300 >&2 || true
  fi
  rm -rf "$scratch"
  for name in "${instances[@]}"; do
    if [ "$keep" = --keep ]; then
      echo "the sandbox is left running; end it with: bin/sandbox --name $name down"
    else
      bin/sandbox --name "$name" down || true
    fi
  done
  exit "$code"
}

begin() { # [--keep]
  keep=${1-}
  scratch=$(mktemp -d)
  trap finish EXIT
  # The plugin as a user has it: kubectl finds kubectl-vmbackup on PATH.
  export PATH=$PWD/bin:$PATH
  if ! command -v kubectl >/dev/null; then
    PATH=$(dirname "$(hack/kubectl.sh)"):$PATH
  fi
}
