# Everything on a fresh machine: `make demo` shows the package at work, `make test` runs its tests.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
TEXT := glue --task mrpc --mini --learning_rate 1e-4 --num_train_epochs 6 --seed 1 --disable_tqdm true
SPEECH := PYTHON=$(CURDIR)/$(PY) recipes/librispeech/run.sh --mini --tag demo --seed 1 --nj 1 --max_epoch 14
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup --durations 15

.PHONY: demo demo-text demo-speech speech test test-slow contract lint patches docs readme benchmark clean

# Some eight minutes on two cores, installation included; `make demo-text` takes three. The losses train side by side, with
# one thread each, and their lines say whose they are.
demo: demo-text demo-speech
	$(PY) -m sqloss_plugins compare --overview runs/demo recipes/librispeech/runs/librispeech/transformer/*-demo

demo-text: $(VENV)/hf.installed
	$(MAKE) --jobs 2 text-square text-cross_entropy
	$(PY) -m sqloss_plugins compare runs/demo

# What both losses share is made first, once.
demo-speech: $(VENV)/espnet.installed
	$(SPEECH) --stop_stage 5
	$(MAKE) --jobs 2 speech-square speech-cross_entropy

text-%:
	OMP_NUM_THREADS=1 $(PY) -m sqloss_plugins $(TEXT) --loss $* --output_dir runs/demo/$* 2>&1 | sed -u 's/^/$*: /'

speech-%:
	OMP_NUM_THREADS=1 $(SPEECH) --loss $* --stage 6 2>&1 | sed -u 's/^/$*: /'

# One epoch of the mini recipe, from audio to error rates, with ESPnet's extra and no other.
speech: $(VENV)/espnet.installed
	$(PY) -m sqloss_plugins asr librispeech --mini --max_epoch 1 --method softmax --workdir runs/speech

test: $(VENV)/test.installed lint
	$(PYTEST) -m "not slow"

# Longer runs: the real configurations of the recipes, a wheel in use.
test-slow: $(VENV)/test.installed
	$(PYTEST) -m slow

# What ties the package to the versions of ESPnet and PyTorch that go with PYTHON:
# make contract PYTHON=python3.12 VENV=.venv312
contract: $(VENV)/test.installed
	$(PYTEST) tests/test_espnet.py tests/test_espnet_tasks.py tests/test_probability.py tests/test_speech_data.py \
		tests/test_linear_square.py tests/test_real_configurations.py tests/test_patches.py \
		"tests/test_recipe.py::test_all_stages" "tests/test_recipe.py::test_an_exported_model_is_plain_espnets"

lint: $(VENV)/test.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Whether the patches fit the installed releases, or the checkout UPSTREAM=DIR; with VERSION=N, those of that version.
patches: $(VENV)/test.installed
	$(PY) patches/renew.py $(if $(UPSTREAM),--upstream $(UPSTREAM)) $(if $(VERSION),--version $(VERSION)) \
		$(if $(OVERWRITE),--overwrite) $(PATCH)

# The site, in build/site; a link that leads nowhere is an error.
docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# The report on the results in recipes/RESULTS/result_files, and the README's table and figure.
readme: $(VENV)/test.installed
	$(PY) -m sqloss_plugins report recipes/RESULTS/result_files --output build/report
	mkdir -p recipes/RESULTS/figures
	cp build/report/report.md build/report/report.json recipes/RESULTS/
	cp build/report/figures/*.png recipes/RESULTS/figures/
	$(PY) -m tools.front_page

benchmark: $(VENV)/test.installed
	$(PY) -m benchmarks.losses --json benchmarks/results/losses_cpu.json
	$(PY) -m benchmarks.linear_precision --json benchmarks/results/linear_precision_cpu.json
	$(PY) -m benchmarks.linear_square --json benchmarks/results/linear_square_cpu.json
	$(PY) -m benchmarks.factorised_head --json benchmarks/results/factorised_head_cpu.json
	$(PY) -m benchmarks.espnet_head --json benchmarks/results/espnet_head_cpu.json
	$(PY) -m benchmarks.evaluation --json benchmarks/results/evaluation_cpu.json
	$(PY) -m benchmarks.language_model_training --json benchmarks/results/language_model_training_cpu.json
	$(PY) -m benchmarks.pair_models --json benchmarks/results/pair_models_cpu.json
	$(PY) -m benchmarks.image_training --models --json benchmarks/results/image_steps_cpu.json

clean:
	rm -rf $(VENV) runs build *.egg-info

# An extra is installed anew when what it depends on has changed.
$(VENV)/%.installed: setup.py pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
