# The two commands are `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
PROFILE ?= release

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

.PHONY: demo
demo: ## a local cluster in which a pod pulls a private image that nobody gave it a credential for; MODE=nodes: from its node
	@MODE=$(MODE) deploy/demo/run

.PHONY: demo-down
demo-down: ## remove the demo's cluster without a trace
	@tests/cluster/cluster down

.PHONY: test
test: ## everything, with the total on the last line
	@tests/run

.PHONY: test-unit
test-unit: ## the daily loop: unit and property tests, in seconds
	@cargo test --workspace --lib --bins

.PHONY: lint
lint: ## formatting and lints
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --features pullpass-suites/cluster -- --deny warnings

.PHONY: generate
generate: ## write the generated files anew: custom resource definitions and the rendered chart
	@cargo build --quiet --workspace --examples --bin crds # with the features of the tests, so that nothing is compiled twice
	@$${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/debug/crds deploy/chart/files/crds
	@deploy/check-chart --write
	@PULLPASS_WRITE_DOCS=1 cargo test --quiet --workspace --test reasons

.PHONY: images
images: ## OCI archives of the images, in target/images
	@PROFILE=$(PROFILE) deploy/images/build

.PHONY: fuzz
fuzz: ## fuzz every reader of foreign input, FUZZ_SECONDS (default 300) each
	@tests/fuzz/run $${FUZZ_SECONDS:-300}

.PHONY: test-first-pulls
test-first-pulls: ## two hundred new namespaces at once, each with a private pod: no first pull fails
	@cargo test --workspace --features pullpass-suites/cluster --test e2e -- --ignored --nocapture of_two_hundred_namespaces
	@tests/cluster/cluster down --name test

.PHONY: soak
soak: ## pods in a steady stream while replicas, rollouts and the API server come and go, for DURATION (default 5m)
	@DURATION=$${DURATION:-5m} cargo test --workspace --features pullpass-suites/cluster --test e2e -- --ignored --nocapture soak
	@tests/cluster/cluster down --name test

.PHONY: test-joining-node
test-joining-node: ## a node joins under load with the startup taint, which takes kubelet's cache of five minutes and more
	@cargo test --workspace --features pullpass-suites/cluster --test e2e -- --ignored --nocapture a_node_that_joins
	@tests/cluster/cluster down --name test

.PHONY: bench
bench: ## measure what is promised about speed; BENCH=admission, instructions, pods, footprint or nodes for a part of it
	@tests/benches/run $(BENCH)
