# Two commands on a fresh machine: `make demo` and `make test`.
# Everything else here is a part of one of them.

CARGO ?= cargo
DEBUG := $(or $(CARGO_TARGET_DIR),target)/debug

.PHONY: demo test soak lint build tools help

help:
	@echo "make demo   build potluck and show the main job end to end, on loopback"
	@echo "make test   build and run every check and test"
	@echo "make soak   simulate clusters under faults until one fails or you stop it"
	@echo "make lint   formatting and lints only"
	@echo "make build  the programs only, into $(DEBUG)"

tools:
	@./scripts/tools

build: tools
	$(CARGO) build --workspace --bins --locked

demo: build
	@$(DEBUG)/potluck-testnet demo

lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The programs first: end-to-end tests use them as users do. A test that can't
# run on this host says so in the file that is counted at the end. The tests
# with cgroup v2 boot a kernel of their own, which is fetched once.
test: lint build
	@./scripts/test-tools
	@./scripts/microvm
	@./scripts/test $(CARGO) test --workspace --locked --no-fail-fast

# Seed after seed of the simulator on all cores; a failing one prints its story
# and the command that repeats it. SEED=… to begin elsewhere.
SEED ?= $(shell date +%s)
soak: tools
	$(CARGO) build --release --locked -p potluck-testnet
	@$(dir $(DEBUG))release/potluck-testnet sim --soak --seed $(SEED) --threads $$(nproc)
