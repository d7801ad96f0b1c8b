# make demo    the whole path on this machine: RTSP camera, alarms over MQTT, a table and a picture at the end
# make test    all tests
# make build   the program only
# make setup   Debian packages, program, ONNX Runtime, model
# make lint    format, clippy, documentation
# make clean   what was built here; the model and ONNX Runtime stay in their store

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# rustup's place, for shells that have not read its profile yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

STANDOFF := target/release/standoff
# Arguments for the program: make demo ARGS="--seconds 20"
ARGS ?=

.NOTPARALLEL:
.PHONY: help demo test build setup lint clean packages test-packages model

help:
	@sed -n 's/^# make/make/p' Makefile

demo: setup
	@$(STANDOFF) demo $(ARGS)

# Tests that lack something here say "SKIP: what and why"; the last lines count them. The program that fetches the
# model is the one that the tests are built with: `make build` has other features in its dependencies and would
# build half of them a second time.
test: test-packages
	cargo test --release --no-run
	@$(STANDOFF) model fetch onnxruntime
	@$(STANDOFF) model fetch dinov2-small
	@$(STANDOFF) model fetch tensorrt-rtx
	@tests/tensorrt/fetch-lean.sh
	cargo test --release --no-fail-fast -- --show-output 2>&1 | tee target/test.log
	@echo "skipped: $$(grep -c '^SKIP: ' target/test.log || true)"
	@grep '^SKIP: ' target/test.log | sort | uniq -c || true

setup: packages build model

packages:
	@deploy/setup.sh run

test-packages:
	@deploy/setup.sh run test

build: packages
	@cargo build --release

model: build
	@$(STANDOFF) model fetch onnxruntime
	@$(STANDOFF) model fetch dinov2-small

lint: packages
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
	cargo clippy --release --no-default-features --features gstreamer -- -D warnings
	cargo clippy --release --no-default-features --features cuda,tensorrt -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps

clean:
	cargo clean
