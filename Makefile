# kubectl-vmbackup: `make` lists the targets, `make demo` shows the thing at work,
# `make test` checks everything.

SHELL        := /bin/bash
.SHELLFLAGS  := -euo pipefail -c
.DEFAULT_GOAL := help
# Two heavy builds at once gain nothing on a small machine and mix their output.
.NOTPARALLEL:

VERSION ?= v0.1.0-dev
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# -buildvcs=false and -trimpath keep a binary a function of its sources and the toolchain;
# the same flags everywhere let all builds share one cache.
export GOFLAGS := -buildvcs=false -trimpath
GO_STATIC := CGO_ENABLED=0 go
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
STAGE   := hack/stage.sh

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use

.PHONY: build
build: ## build bin/kubectl-vmbackup
	$(GO_STATIC) build -ldflags '$(LDFLAGS)' -o bin/kubectl-vmbackup ./cmd/kubectl-vmbackup

.PHONY: demo
demo: deps build sandbox-build ## show a backup and a restore step by step on a sandbox of its own; PROFILE=harvester: beside Harvester
	hack/demo$(if $(PROFILE),-$(PROFILE)).sh

.PHONY: demo-dr
demo-dr: deps build sandbox-build ## show how a machine of a lost cluster comes back in a second one
	hack/demo-dr.sh

.PHONY: dist
dist: ## build the release archives and the krew manifest that names their digests into dist/
	$(GO_STATIC) run ./hack/release dist -commit $(COMMIT) -out dist

##@ Check

.PHONY: test
test: ## check everything, cheap failures first: what CI runs
	@$(STAGE) deps          $(MAKE) --no-print-directory deps
	@$(STAGE) verify        hack/verify.sh
	@$(STAGE) build         $(MAKE) --no-print-directory build
	@$(STAGE) generated     $(MAKE) --no-print-directory verify-generated
	@$(STAGE) unit          $(MAKE) --no-print-directory unit
	@$(STAGE) lint          $(MAKE) --no-print-directory lint
	@$(STAGE) krew          hack/verify-krew.sh
	@$(STAGE) sandbox-build $(MAKE) --no-print-directory sandbox-build PROFILE=harvester
	@$(STAGE) e2e           $(MAKE) --no-print-directory e2e
	@$(STAGE) demo          hack/demo.sh

.PHONY: unit
unit: ## run the unit tests of both modules under the race detector
	go test -race -timeout 10m ./...
	go -C sandbox test -race -timeout 10m ./...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (30s) each
	hack/fuzz.sh $(FUZZTIME)

.PHONY: e2e
e2e: build sandbox ## run the end-to-end tests on sandboxes that they start and stop
	bin/sandbox build --profile harvester
	hack/e2e.sh

.PHONY: e2e-harvester
e2e-harvester: build sandbox ## run those of them alone that need Harvester's own controllers
	bin/sandbox build --profile harvester
	hack/e2e.sh -run '^TestHarvester'

.PHONY: lint
lint: ## run golangci-lint over both modules and shellcheck over the scripts
	hack/lint.sh

.PHONY: bench
bench: build sandbox-build ## measure against the goals; prints a table, writes bin/bench.json
	hack/kubectl.sh
	$(GO_STATIC) run ./bench -json bin/bench.json

.PHONY: bench-harvester
bench-harvester: build sandbox ## measure beside Harvester's own controllers, which it builds: both engines, and a listing of thousands
	hack/kubectl.sh
	bin/sandbox build --profile harvester
	$(GO_STATIC) run ./bench -only harvester -json bin/bench-harvester.json

##@ Generate

.PHONY: generate
generate: ## regenerate docs/cli.md and krew-manifest.yaml
	$(GO_STATIC) run ./hack/gendocs -out docs/cli.md
	$(GO_STATIC) run ./hack/release manifest -out krew-manifest.yaml

.PHONY: verify-generated
verify-generated: ## fail when a generated file is not what `make generate` writes
	$(GO_STATIC) run ./hack/gendocs -check docs/cli.md
	$(GO_STATIC) run ./hack/release manifest -check krew-manifest.yaml

.PHONY: tidy
tidy: ## tidy go.mod and go.sum of every module and format the Go files
	go mod tidy
	go -C sandbox mod tidy
	gofmt -w $$(git ls-files '*.go')

##@ Sandbox: the real control plane, Longhorn and KubeVirt as local processes

.PHONY: sandbox
sandbox:
	go build -C sandbox -o ../bin/sandbox ./cmd/sandbox

.PHONY: sandbox-build
sandbox-build: sandbox ## build the sandbox's components (cached; long the first time); PROFILE=harvester: Harvester's too
	bin/sandbox build $(if $(PROFILE),--profile $(PROFILE))

.PHONY: sandbox-up
sandbox-up: deps sandbox-build ## start a sandbox
	bin/sandbox up

.PHONY: sandbox-down
sandbox-down: sandbox ## stop the sandbox and remove its state
	bin/sandbox down

.PHONY: sandbox-status
sandbox-status: sandbox ## say what runs, what is a stand-in, and where the logs are
	bin/sandbox status

##@ Keep house

.PHONY: deps
deps: ## install the Debian packages that building and testing need, if missing
	hack/install-deps.sh

.PHONY: clean
clean: ## remove what was built (bin, dist); the sandbox's component cache stays
	rm -rf bin dist
