# Tritone's commands. Each is one line over `python -m ...`, so that each can be run without make too.
#
#   make demo                          speak some lines with the demo voice
#   make serve MODEL_DIR=path/to/dir   serve a checkpoint until Ctrl-C
#   make serve SIZE=full               serve pseudo-random weights of the published sizes (noise; for measuring)
#
# PyTorch is needed to build the engines only, and its CPU build is enough. The package index's own build for Linux
# brings gigabytes of CUDA libraries along; to get the small one, set PIP_EXTRA_INDEX_URL to PyTorch's own index of
# CPU builds (its installation page names it): pip heeds that variable by itself.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# tiny or full: pseudo-random weights of that size take the place of MODEL_DIR
SIZE ?=
SYNTHETIC := $(SIZE:%=checkpoints/synthetic-%)
MODEL_DIR ?= $(or $(SYNTHETIC),checkpoints/demo_voice)
# cpu, or gpu inside Triton's image with TensorRT-LLM
PROFILE ?= cpu
# of the language model: int8 or bf16; else int8 on a CPU and bf16 on a GPU
PRECISION ?=
HOST ?= 127.0.0.1
HTTP_PORT ?= 8000
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002
# the stored voices, one JSON file each
export VOICES_DIR ?= $(CURDIR)/voices

PERF_ANALYZER := build/perf_analyzer/bin/perf_analyzer
MEASURED := benchmark/measured

PYTHON ?= python3.11
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
BUILD := $(VENV_PYTHON) -m build_engines
WITH_PRECISION := --model-dir "$(MODEL_DIR)" $(PRECISION:%=--precision %)
CHECKPOINT := $(WITH_PRECISION) --profile $(PROFILE)

.PHONY: help setup demo serve build verify download bench measure table peer docker-cpu docker-gpu gpu-check \
	demo-voice demo-voice-evaluate test \
	lint clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make a virtual environment in .venv with everything in it
$(INSTALLED): pyproject.toml client/pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(VENV_PYTHON) -m pip install --constraint requirements.lock --editable '.[server,normalize,build,benchmark,dev]' --editable ./client
	@touch $@

demo: setup $(if $(SIZE),checkpoints/synthetic-$(SIZE)) ## build, serve and speak some lines with the demo voice, into out/
	$(VENV_PYTHON) -m demo --model-dir "$(MODEL_DIR)"

serve: setup $(SYNTHETIC) ## serve MODEL_DIR on HOST, HTTP_PORT, GRPC_PORT, METRICS_PORT until Ctrl-C; builds what is missing
	repository=$$($(BUILD) repository $(CHECKPOINT)) && exec $(VENV_PYTHON) -m tritone.serve \
		--model-repository "$$repository" --host $(HOST) \
		--http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT)

build: setup $(SYNTHETIC) ## build the engines of MODEL_DIR, or of a synthetic checkpoint: SIZE=tiny, SIZE=full
	$(BUILD) repository $(CHECKPOINT)

verify: build ## compare every engine of MODEL_DIR with its reference
	$(BUILD) verify $(CHECKPOINT)

download: setup ## fetch the published checkpoint (3.9 GB, CC BY-NC-SA 4.0) into checkpoints/Spark-TTS-0.5B
	$(BUILD) download --output-dir checkpoints/Spark-TTS-0.5B

bench: build ## speed and memory of a server on MODEL_DIR (or SIZE), in a server of its own
	$(VENV_PYTHON) -m benchmark speed $(WITH_PRECISION)

measure: setup checkpoints/synthetic-full ## load a server of the published sizes (which makes noise) for the README
	$(VENV_PYTHON) -m benchmark run --model-dir checkpoints/synthetic-full --concurrency 1,2,4,8 --requests 8 \
		--fixed-tokens 100 --beside published-l20 --out $(MEASURED)

table: setup ## write the README's table from what `make measure` stored
	$(VENV_PYTHON) -m benchmark table $(MEASURED)/run.json --into README.md

peer: setup $(PERF_ANALYZER) ## compare our times of a running server with those of NVIDIA's perf_analyzer
	$(VENV_PYTHON) -m benchmark peer --url $(HOST):$(GRPC_PORT)

# Of the server's own release; beside .venv, whose tritonclient is a later one without it.
$(PERF_ANALYZER): | setup
	$(VENV_PYTHON) -m pip install --quiet --no-deps --target build/perf_analyzer tritonclient==2.51.0

docker-cpu: ## build the image tritone:cpu (see docker/README.md)
	docker build --file docker/Dockerfile --target cpu --tag tritone:cpu .

docker-gpu: ## build the image tritone:gpu; the engines are built on its first start
	docker build --file docker/Dockerfile --target gpu --tag tritone:gpu .

gpu-check: $(SYNTHETIC) ## build, verify, test and measure in the image tritone:gpu; one report, build/gpu-check/check.md, for an issue
	docker run --rm --gpus all --shm-size 1g --user 0 --volume "$(CURDIR):/work" --workdir /work \
		--entrypoint /opt/nvidia/nvidia_entrypoint.sh tritone:gpu docker/check --model-dir "$(MODEL_DIR)" --output-dir build/gpu-check

demo-voice: setup ## train the demo voice from nothing (hours, 6 GB; resumable; needs Debian's libespeak-ng1, is faster with g++)
	$(VENV_PYTHON) -m build_engines.demo_voice

demo-voice-evaluate: setup ## measure MODEL_DIR's speech, by PyTorch and by a real server; fails where a figure is missed
	$(VENV_PYTHON) -m build_engines.demo_voice evaluate --checkpoint "$(MODEL_DIR)" --server

test: setup $(PERF_ANALYZER) ## run the tests
	$(VENV_PYTHON) -m pytest

lint: setup ## check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

clean: ## remove what was built and spoken; checkpoints, voices and .venv stay
	rm -rf build out

checkpoints/synthetic-%: | setup
	$(BUILD) synthetic --size $* --output-dir $@
