# One way to run things: every target sets up what it needs (tools/set-up), on Debian 12 and 13.
# ARGS is handed on: make test ARGS="-k labels -x", make demo ARGS=--json

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

export VENV ?= .venv
export SHAMON_EXAMPLES
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Play the story in memory (no root, no hardware; ARGS=--json for the report)
	@tools/set-up run
	$(BIN)/shamon demo $(ARGS)

.PHONY: test
test: ## Run the unit suite (no root, no compiler, no hardware; SHAMON_EXAMPLES=1: all examples, seven times as many)
	@tools/set-up dev
	unset PYTHONDONTWRITEBYTECODE # without compiled tests, each worker would compile all of them at every run
	$(BIN)/python -m pytest tests/unit --timeout=60 --numprocesses=auto $(ARGS)

.PHONY: bench-policy
bench-policy: ## Measure how fast big policies are checked, asked and compared (ARGS="--json FILE --rounds N")
	@tools/set-up dev
	$(BIN)/python -m tests.bench.policy $(ARGS)

.PHONY: bench-attestation
bench-attestation: ## Measure appraisal against Keylime, quotes, and many peers (ARGS="--json FILE --rounds N")
	@tools/set-up bench
	$(BIN)/python -m tests.bench.attestation $(ARGS)

.PHONY: bench-links
bench-links: ## Measure many links (ARGS="memory kernel throughput --json FILE"; the last two need a lab, root)
	@tools/set-up dev
	case " $(ARGS) " in *" kernel "* | *" throughput "*) $(MAKE) lab-images ;; esac
	$(BIN)/python -m tests.bench.links $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz every parser of a stranger's bytes for five minutes (ARGS="--seconds N TARGET...", --list)
	@tools/set-up fuzz
	$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: lint
lint: ## Check style, types and import layers, and that the lab's tests can be read
	@tools/set-up dev
	failed=()
	check() { echo "== $$*"; "$(BIN)/$$@" || failed+=("$$*"); }
	check ruff check .
	check ruff format --check .
	check mypy
	check lint-imports --no-logo
	check pytest tests/integration --collect-only -qq
	if [ $${#failed[@]} -gt 0 ]; then printf 'lint: failed: %s\n' "$${failed[@]}" >&2; exit 1; fi

.PHONY: format
format: ## Sort imports and format the code
	@tools/set-up dev
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

HOSTS ?= kvm,kvm
.PHONY: lab
lab: lab-images ## Play the story on real hosts in VMs (root; HOSTS=xen,kvm MAC_VMS=yes ARGS="--full --json FILE")
	@$(BIN)/python -m tests.integration.lab.story --hosts $(HOSTS) $(if $(MAC_VMS),--mac-vms) $(ARGS)

.PHONY: test-lab
test-lab: lab-images ## Run the integration tests that belong in CI (root)
	@$(BIN)/python -m pytest tests/integration -m "not full" $(ARGS)

.PHONY: test-lab-full
test-lab-full: lab-images ## Run all integration tests (root, long)
	@$(BIN)/python -m pytest tests/integration $(ARGS)

.PHONY: lab-images
lab-images: ## Build what is missing of the lab's images (root); those of Xen are built when a lab first wants them
	@tools/set-up lab
	$(BIN)/python -m vm_images.build host
	$(BIN)/python -m vm_images.build app

# Pins are kept as they are; make lock ARGS=--upgrade takes the newest of everything.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)
.PHONY: lock
lock: ## Write the lock files in requirements/ (ARGS=--upgrade for newer versions)
	@tools/set-up lock
	$(COMPILE) pyproject.toml -o requirements/run.txt
	$(COMPILE) pyproject.toml --extra dev -c requirements/run.txt -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra host -c requirements/run.txt -c requirements/dev.txt -o requirements/host.txt
	$(COMPILE) requirements/fuzz.in -c requirements/dev.txt -o requirements/fuzz.txt
	$(COMPILE) requirements/keylime.in -o requirements/keylime.txt
	$(COMPILE) requirements/tpm.in -c requirements/host.txt -c requirements/dev.txt -o requirements/tpm.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE) requirements/host-build.in -c requirements/host.txt -c requirements/build.txt -o requirements/host-build.txt
	$(COMPILE) requirements/lock.in -o requirements/lock.txt
	if grep -nE '://|^ *--(index|extra-index|find-links|trusted-host)' requirements/*.txt; then
		echo "lock: an address got into a lock file (above)" >&2
		exit 1
	fi

.PHONY: clean
clean: ## Remove the virtual environment and everything that was generated in this directory
	@rm -rf .venv* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
