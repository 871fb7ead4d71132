#!/bin/sh
# This repository as one of the systems of a harness that compares several: a program that is called with
# `--out 1,8,64,256 --ops put,read --value 64 --warmup S --measure S`, starts its own cluster and prints rows of the harness's columns.
# Builds the release binary where there is none yet.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
kv=${CARGO_TARGET_DIR:-$root/target}/release/kv
[ -x "$kv" ] || cargo build --release --quiet --manifest-path "$root/Cargo.toml" --package kv-example >&2
exec "$kv" bench-peer "$@"
