#!/usr/bin/env bash
# What the demonstrations share; they source it. They tell a story step by step, on
# a sandbox of their own named $instance, which goes at the end unless --keep was given.
# shellcheck disable=SC2034 # what the demonstrations use
: "${instance:?}"
keep=${1-}
began=$SECONDS
scratch=$(mktemp -d)
sandbox() { bin/sandbox --name "$instance" "$@"; }

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
  strong=$'\e[1m' plain=$'\e[0m'
else
  strong='' plain=''
fi
step=0
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
  code=0
  run "$@" || code=$?
  case $code in
    0) ;;
    3) printf '   (exit code 3: done, with the warnings above)\n' ;;
    *) return "$code" ;;
  esac
}
apply() { # makes what is in the file, and shows it
  printf '\n%s$ kubectl create -f - <<EOF%s\n' "$strong" "$plain"
  cat "$1"
  printf '%sEOF%s\n' "$strong" "$plain"
  kubectl create -f "$1"
}
fail() {
  printf '\n%sThe demo failed: %s%s\n' "$strong" "$1" "$plain" >&2
  exit 1
}

finish() {
  code=$?
  if [ "$code" -ne 0 ]; then
    sandbox status 2>/dev/null | awk 'NR == 1 || $3 != "ready"' >&2 || true
    hack/sandbox-logs.sh 2>/dev/null | tail -n 300 >&2 || true
  fi
  rm -rf "$scratch"
  if [ "$keep" = --keep ]; then
    echo "the sandbox is left running; end it with: bin/sandbox --name $instance down"
  else
    sandbox down || true
  fi
  exit "$code"
}
trap finish EXIT

# The plugin as a user has it: kubectl finds kubectl-vmbackup on PATH.
export PATH=$PWD/bin:$PATH
if ! command -v kubectl >/dev/null; then
  PATH=$(dirname "$(hack/kubectl.sh)"):$PATH
fi
