# Everything runs in .venv, made on the first call from the locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# else it was made by a Python that is too old, or only half
VENV_IS_GOOD := $(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null

.PHONY: run help test check format chaos fuzz real-ollama real-llamacpp corpus conformance imitations nightly reloads kills image bench bench-peers bench-affinity lock reference schemathesis bench-wrk browser docs handover clean

# Hermes in front of the Ollama on this machine; with simulated models where none answers.
run: $(RUN_READY)
	$(BIN)/hermes serve --or-simulate

# These lines.
help:
	@awk '/^# / && !told { told = substr($$0, 3); sub(/[.:;]( .*)?$$/, "", told) } \
	  /^[a-z-]+:/ { sub(/:.*/, ""); printf "make %-16s %s\n", $$0, told } \
	  !/^#/ && !/ \?= / { told = "" }' Makefile

# The tests, in parallel.
test: $(DEV_READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal tests

# Style, types and the order of rooms.
check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# Have the style mended.
format: $(DEV_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in build/site: a page that is not well formed, a link that leads nowhere or asks another host ends it.
docs:
	test -x $(VENV)-docs/bin/sphinx-build || $(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install -q --require-hashes -r docs/make/requirements.lock
	$(VENV)-docs/bin/sphinx-build -q -E -W --keep-going -c docs/make docs build/site
	@echo build/site/index.html

# What docs/ repeats of the code, anew.
reference: $(RUN_READY)
	PYTHONPATH=src:. $(BIN)/python -m docs.make

# 10,000 clients, a third of which leave, in front of three faulty backends; `make test` lets 300 loose. A thousand at once against limits for few.
chaos: $(DEV_READY)
	HERMES_CHAOS_REQUESTS=10000 HERMES_AT_ONCE=1000 HERMES_KILLS=6 $(BIN)/python -m pytest -s tests/chaos tests/e2e/test_limits.py

# A fuzzer at each parser that strangers reach, one after the other.
FUZZ_SECONDS ?= 600
fuzz: $(RUN_READY)
	test -x $(VENV)-fuzz/bin/pip || $(PYTHON) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install -q -r requirements.lock
	$(VENV)-fuzz/bin/python -m pip install -q -r tests/hostile/requirements.txt
	for target in heads bodies keys configuration; do \
	  PYTHONPATH=src $(VENV)-fuzz/bin/python -m tests.hostile $$target $(FUZZ_SECONDS) $(VENV)-fuzz/$$target || exit 1; done

# Requests drawn from docs/openapi.json: does each answer keep to it?
SCHEMATHESIS_SECONDS ?= 300
schemathesis: $(RUN_READY)
	test -x $(VENV)-schemathesis/bin/pip || $(PYTHON) -m venv $(VENV)-schemathesis
	$(VENV)-schemathesis/bin/python -m pip install -q -r tests/contract/requirements.txt
	$(BIN)/python -m tests.contract $(CURDIR)/$(VENV)-schemathesis/bin/schemathesis $(SCHEMATHESIS_SECONDS)

# Against an Ollama that runs already and has the model.
OLLAMA_URL ?= http://127.0.0.1:11434
MODEL ?= tiny
real-ollama: $(DEV_READY)
	HERMES_REAL=1 OLLAMA_URL=$(OLLAMA_URL) MODEL=$(MODEL) $(BIN)/python -m pytest -s -rs tests/real

# Against llama-servers that the tests start: LLAMA_SERVER is the program, GGUF a model for it.
real-llamacpp: $(DEV_READY)
	LLAMA_SERVER=$(LLAMA_SERVER) GGUF=$(GGUF) THINKER_GGUF=$(THINKER_GGUF) \
	  $(BIN)/python -m pytest -s -rs tests/real/llamacpp

# What both answer, anew into tests/corpus: models of these three kinds, in the Ollama as tiny, thinker and embedder.
corpus: $(DEV_READY)
	LLAMA_SERVER=$(LLAMA_SERVER) GGUF=$(GGUF) THINKER_GGUF=$(THINKER_GGUF) EMBEDDER_GGUF=$(EMBEDDER_GGUF) \
	  OLLAMA_URL=$(OLLAMA_URL) $(BIN)/python -m tests.corpus.record

# TGI's own clients read what imitates it: no TGI can be had here.
imitations: $(DEV_READY)
	test -x $(VENV)-tgi/bin/pip || $(PYTHON) -m venv $(VENV)-tgi
	$(VENV)-tgi/bin/python -m pip install -q -r tests/imitations/requirements.txt
	TGI_CLIENTS=$(VENV)-tgi/bin/python $(BIN)/python -m pytest -rs tests/imitations

# The clients that people have, each in an environment outside of this tree, written up in docs/compatibility.md. Against the
# simulated Ollama; with LLAMA_SERVER against that, also as a process of Hermes's; with LLAMA_ROUTER, with OLLAMA (a URL) too.
conformance: $(RUN_READY)
	$(BIN)/python -m tests.conformance $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) \
	  $(if $(LLAMA_ROUTER),--llama-router $(LLAMA_ROUTER)) $(if $(OLLAMA),--ollama $(OLLAMA))

# The dashboard in a headless Chromium; screenshots in tests/browser/shots.
browser: $(RUN_READY)
	test -x $(VENV)-browser/bin/pip || $(PYTHON) -m venv $(VENV)-browser
	$(VENV)-browser/bin/python -m pip install -q -r requirements.lock
	$(VENV)-browser/bin/python -m pip install -q -r tests/browser/requirements.txt
	HERMES_BROWSER=1 $(VENV)-browser/bin/python -m pytest -rs tests/browser

# The simulation with 10,000 seeds, properties of the policy at random, each odd thing in each place of what verbs are told.
nightly: $(DEV_READY)
	HERMES_SEEDS=10000 HERMES_SHAPES=100000 $(BIN)/python -m pytest tests/simulation tests/policy tests/cli/test_shapes.py

# A thousand reloads, half of them of no use, under load; `make test` does 60.
reloads: $(DEV_READY)
	HERMES_RELOADS=1000 $(BIN)/python -m pytest -s tests/e2e/test_reload_storm.py

# Killed, and its power cut, while keys are changed and used: is all there that was acknowledged, and soon?
kills: $(DEV_READY)
	HERMES_KILLS=200 HERMES_POWER_CUTS=100 $(BIN)/python -m pytest -s -rs tests/keys

# Three restarts under 10,000 requests: another process goes on, and none fails.
handover: $(DEV_READY)
	HERMES_HANDOVER=10000 $(BIN)/python -m pytest -s tests/e2e/test_handover.py

# The Dockerfile's steps without Docker, by root: IMAGE_PYTHON is one that every user may run.
IMAGE_PYTHON ?= /usr/bin/python3
image: $(DEV_READY)
	HERMES_IMAGE=$(IMAGE_PYTHON) $(BIN)/python -m pytest tests/deploy/test_image.py

# What Hermes costs, measured.
bench: $(RUN_READY)
	$(BIN)/python benchmarks/run.py

# The same, beside nginx, LiteLLM and Portkey.
bench-peers: $(RUN_READY)
	$(BIN)/python benchmarks/run.py --peers

# Over llama-servers that it starts: LLAMA_SERVER is the program, GGUF a model for it.
bench-affinity: $(RUN_READY)
	$(BIN)/python benchmarks/affinity.py "$(LLAMA_SERVER)" "$(GGUF)"

# The load generator itself: beside wrk, beside a stall that is known, with 2,000 streams.
bench-wrk: $(RUN_READY)
	$(BIN)/python benchmarks/generators.py

# Resolve the ranges of pyproject.toml anew, with hashes.
lock: $(DEV_READY)
	$(BIN)/python -m pip install pip-tools
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links \
	  --no-header --no-annotate --all-build-deps -o requirements.lock pyproject.toml
	$(BIN)/pip-compile -q --extra dev --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --all-build-deps -o requirements-dev.lock pyproject.toml

$(RUN_READY): requirements.lock pyproject.toml
	@$(VENV_IS_GOOD) || $(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "Hermes needs Python 3.11 or newer, which $(PYTHON) is not: name one, as in make run PYTHON=python3.12" >&2; exit 1; }
	@$(VENV_IS_GOOD) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

$(DEV_READY): requirements-dev.lock $(RUN_READY)
	$(BIN)/python -m pip install -q --require-hashes -r requirements-dev.lock
	touch $@

# All that was made goes.
clean:
	rm -rf $(VENV) $(VENV)-tgi $(VENV)-fuzz $(VENV)-schemathesis $(VENV)-browser $(VENV)-docs build dist benchmarks/results
