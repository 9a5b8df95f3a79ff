# Every target does its own set-up. Built dependencies are kept under $(GRISTMILL_CACHE), outside the clone; nothing relies
# on them being there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export GRISTMILL_CACHE ?= $(HOME)/.cache/gristmill
export CARGO_TARGET_DIR ?= $(GRISTMILL_CACHE)/target
PREFIX ?= $(HOME)/.local
# By its place in the cache, not by the clone's link to it: another clone would compile torch-sys again.
LIBTORCH_LOCK := $(shell sha256sum scripts/libtorch.lock | cut -c1-16)
CARGO := $(if $(LIBTORCH),,LIBTORCH=$(GRISTMILL_CACHE)/libtorch/$(LIBTORCH_LOCK)/torch) cargo
DEBUG := $(CARGO_TARGET_DIR)/debug
RELEASE := $(CARGO_TARGET_DIR)/release
DENY_VERSION := 0.20.2
DENY := $(GRISTMILL_CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: help demo test lint bench parity install libtorch release

help:
	@echo "make demo      embed real source code on this machine, verify it, look at neighbours"
	@echo "make test      all tests and lints"
	@echo "make lint      rustfmt, clippy, cargo-deny"
	@echo "make parity    compare with PyTorch and transformers (fetches 2.8 GB once)"
	@echo "make bench     the README's numbers"
	@echo "make install   programs and libtorch under PREFIX ($(PREFIX))"
	@echo "make libtorch  fetch the pinned libtorch; then plain cargo works too"

libtorch:
	@scripts/libtorch.sh

release: libtorch
	$(CARGO) build --release --locked --workspace --bins

demo: release
	scripts/demo.sh $(RELEASE)

test: lint
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace
	scripts/readers.sh $(DEBUG)

lint: libtorch $(DENY)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(DENY) check bans licenses sources

# Optimised code would cost minutes and save seconds.
$(DENY):
	CARGO_TARGET_DIR=$(GRISTMILL_CACHE)/cargo-deny-build CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo install --quiet --locked --version $(DENY_VERSION) --root $(GRISTMILL_CACHE)/cargo-deny-$(DENY_VERSION) cargo-deny
	rm -rf $(GRISTMILL_CACHE)/cargo-deny-build

parity: libtorch
	$(CARGO) build --locked --workspace --bins
	scripts/parity.sh $(DEBUG)

bench: release
	scripts/bench.sh $(RELEASE)

install: release
	install -d $(PREFIX)/bin $(PREFIX)/lib/gristmill
	install $(RELEASE)/gristmill $(RELEASE)/gristmill-worker $(PREFIX)/bin
	scripts/install-libtorch.sh $(PREFIX)/lib/gristmill
