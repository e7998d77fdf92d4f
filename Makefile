# make help says what there is. All paths are relative, so that the folder's own path may hold spaces.

VENV := .venv-dev
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RESULTS := .test-results
# Of the unit tests; each computes on one core.
WORKERS ?= 2
# Of the ComfyUI tests, each with a server of its own, which takes up to 11 GB.
COMFY_WORKERS ?= $(shell awk '/MemAvailable/ { print ($$2 > 20e6) ? 2 : 1 }' /proc/meminfo 2>/dev/null || echo 1)
# The core and the embedded model are imported from the root.
IN_ROOT := PYTHONPATH=.
# The C library (of Linux) otherwise hands the memory of every large tensor back and asks for it anew.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592

# The newest of the supported versions that has what a virtual environment needs; lazy, asked only when one is made.
SUITS := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3 python; do \
	if $$p -c '$(SUITS)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help test test-unit test-comfy run-comfy test-browser run-browser test-more test-ways test-models demo demo-comfy examples texts fidelity transformers edits ablation inversion semantics arrows sizes \
	bench lint clean

help:
	@echo "make test        ruff, unit tests, and the ComfyUI and browser tests if a ComfyUI (and Chromium) is found"
	@echo "make test-unit   unit tests: neither ComfyUI nor a GPU"
	@echo "make test-comfy  only the ComfyUI tests; fails if there is no ComfyUI"
	@echo "make test-browser ComfyUI's graph editor in headless Chromium: workflows open and run, nodes are found and explained"
	@echo "make test-more   slower cases: the other example workflows, ControlNets, windows, ... (minutes)"
	@echo "make test-ways   guided steps in every way that ComfyUI keeps weights and computes attention (a minute each)"
	@echo "make test-models motion models and nodes of AnimateDiff-Evolved's, each with random weights of its own (7.7 GB, made once)"
	@echo "make demo        clones drawn motions with the embedded model (VIDEO=clip.mp4 for your own reference)"
	@echo "make demo-comfy  the example workflow through a real ComfyUI (VIDEO=clip.mp4 likewise)"
	@echo "make examples    writes the example workflows and takes their pictures in ComfyUI's editor (needs Chromium)"
	@echo "make texts       writes the nodes' English texts from their schemas, and the pictures of the help (15 minutes)"
	@echo "make fidelity    measures how well motions are followed and writes docs/FIDELITY.md (hours; can be resumed)"
	@echo "make transformers measures motions on tiny CogVideoX and Wan inside ComfyUI and writes docs/TRANSFORMERS.md (hours)"
	@echo "make edits       measures what edits of motions do and writes their part of docs/FIDELITY.md (hours; can be resumed)"
	@echo "make ablation    measures what else the paper's ablation varies and writes its part of docs/FIDELITY.md (hours; can be resumed)"
	@echo "make semantics   measures semantic guidance with a distractor in the reference and writes docs/SEMANTICS.md (an hour; can be resumed)"
	@echo "make inversion   measures how well inverted clips come back and writes docs/INVERSION.md (hours; can be resumed)"
	@echo "make arrows      measures how well arrows tell which way things move and writes docs/CORRESPONDENCE.md (minutes)"
	@echo "make sizes       measures guidance at other sizes and lengths and writes docs/SIZES.md (an hour; can be resumed)"
	@echo "make bench       cost of a guided step beside an unguided one; writes docs/PERFORMANCE.md (an hour)"
	@echo "make lint        ruff"
	@echo "make clean       removes the environment, caches and results"
	@echo
	@echo "PYTHON=...         the Python (3.10 to 3.13) of the development environment in $(VENV)"
	@echo "COMFYUI_PATH=...   ComfyUI's folder (else where this pack is installed, else ~/comfy/ComfyUI)"
	@echo "COMFYUI_PYTHON=... its interpreter (else .venv or venv inside it)"
	@echo "COMFY_WORKERS=...  servers that the ComfyUI tests share their work among (2 where there is memory for it)"
	@echo "ARGS=...           further arguments of pytest, the demo or the benchmark"

$(STAMP): requirements.txt requirements-dev.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.10 to 3.13 with venv and pip was found. Install one (on Debian and Ubuntu:" >&2; \
		echo "apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c '$(SUITS)' >/dev/null 2>&1; then \
		echo "$(PYTHON) is not a Python 3.10 to 3.13 with venv and pip." >&2; exit 1; fi
	"$(PYTHON)" -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

test: test-unit
	@if reason="$$($(PY) scripts/find_comfyui.py 2>&1)"; then \
		$(MAKE) --no-print-directory run-comfy && $(MAKE) --no-print-directory run-browser ARGS='-m "not more" $(ARGS)'; else \
		echo; echo "$$reason"; echo; \
		echo "ComfyUI tests: NOT RUN (only ruff and the unit tests were). To run them, install ComfyUI with" \
			"ComfyUI-AnimateDiff-Evolved and set COMFYUI_PATH; the reason is above."; fi

test-unit: lint
	@mkdir -p $(RESULTS)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit -n $(WORKERS) --dist worksteal --junitxml=$(RESULTS)/unit.xml $(ARGS)

test-comfy: $(STAMP)
	@$(PY) scripts/find_comfyui.py
	@$(MAKE) --no-print-directory run-comfy

run-comfy: $(STAMP)
	@mkdir -p $(RESULTS)
	MOTIONCLONE_REQUIRE_COMFY=1 $(if $(filter-out 1,$(COMFY_WORKERS)),OMP_NUM_THREADS=1) $(PY) -m pytest tests/comfy \
		-m "not more and not ways and not models" $(if $(filter-out 1,$(COMFY_WORKERS)),-n $(COMFY_WORKERS) --dist worksteal) \
		--junitxml=$(RESULTS)/comfy.xml $(ARGS)

test-browser: $(STAMP)
	@$(PY) scripts/find_comfyui.py
	@MOTIONCLONE_REQUIRE_BROWSER=1 $(MAKE) --no-print-directory run-browser

run-browser: $(STAMP)
	@mkdir -p $(RESULTS)
	$(PY) -m pytest tests/browser --junitxml=$(RESULTS)/browser.xml $(ARGS)

test-more: $(STAMP)
	@mkdir -p $(RESULTS)
	MOTIONCLONE_REQUIRE_COMFY=1 $(PY) -m pytest tests/comfy -m more --junitxml=$(RESULTS)/more.xml $(ARGS)

test-ways: $(STAMP)
	@mkdir -p $(RESULTS)
	MOTIONCLONE_REQUIRE_COMFY=1 $(PY) -m pytest tests/comfy -m ways --junitxml=$(RESULTS)/ways.xml $(ARGS)

test-models: $(STAMP)
	@mkdir -p $(RESULTS)
	MOTIONCLONE_REQUIRE_COMFY=1 $(PY) -m pytest tests/comfy -m models --junitxml=$(RESULTS)/models.xml $(ARGS)

demo: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/demo.py $(if $(VIDEO),--video "$(VIDEO)") $(ARGS)

demo-comfy: $(STAMP)
	$(PY) scripts/demo_comfyui.py $(if $(VIDEO),--video "$(VIDEO)") $(ARGS)

examples: $(STAMP)
	$(PY) scripts/example_workflows.py
	$(PY) scripts/photograph.py $(ARGS)

texts: $(STAMP)
	$(PY) scripts/node_locales.py
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/help_pictures.py $(ARGS)

fidelity: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/fidelity.py $(ARGS)

transformers: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/transformer_study.py $(ARGS)

edits: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/edit_study.py $(ARGS)

ablation: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/ablation_study.py $(ARGS)

semantics: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/semantics_study.py $(ARGS)

inversion: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/inversion_study.py $(ARGS)

arrows: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/correspondence_study.py $(ARGS)

sizes: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/size_study.py $(ARGS)

bench: $(STAMP)
	$(IN_ROOT) $(KEEP_MEMORY) $(PY) scripts/bench.py $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .

clean:
	rm -rf $(VENV) $(RESULTS) demo_output bench_output .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
