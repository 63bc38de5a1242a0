# Every target makes .venv itself and works on a bare machine with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Optional libraries that the tests marked `extras` need.
EXTRAS := imagenet,jax,kerashub,litert,mlflow,onnx,openvino,parquet,ray,s3,serve,tensorboard
# An S3 server for the tests of remote stores.
EXTRAS_SERVER := 'moto[server]>=5.1,<6'
READY_EXTRAS := $(VENV)/.ready-extras

READY_DOCS := $(VENV)/.ready-docs

.PHONY: demo test test-slow test-extras docs links release lint bench bench-bundled pretrain clean

# The whole job in a minute or two: fine-tune on handwritten digits and photographs, offline.
demo: $(READY)
	$(BIN)/tlcli demo

# Format, lint, types, import contract, tests.
test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# Optional libraries, and what takes longer; in the same .venv.
test-extras: $(READY_EXTRAS)
	$(BIN)/pytest -n 2 --dist loadfile -m 'extras and not slow'

# Long trainings on real images, and the commands of the documentation.
test-slow: $(READY_EXTRAS)
	$(BIN)/pytest -m slow

# The site, in build/site. Links to nowhere and wrong spelling are errors.
docs: $(READY_DOCS)
	$(BIN)/codespell
	$(BIN)/zensical build --strict --clean

# Asks every link of the documentation that leads out of it. Needs the internet, so it is part of no test.
links: $(READY)
	$(BIN)/python scripts/check_links.py

# Wheel and source archive in dist/: checked as the package index does, installed in an empty environment, and run there.
release: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	scripts/try_wheel.sh dist/*.whl $(PYTHON)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Compares tlcli with the two-phase script of the Keras guide, on the same images and weights.
# make bench BENCH="photos/ --alpha 0.35 --weights FILE"
bench: $(READY)
	$(BIN)/python benchmarks/against_keras.py $(BENCH)

# Scores the bundled weights; BENCH="--data SAMPLES" adds more than digits. Takes half an hour or more.
bench-bundled: $(READY)
	$(BIN)/python benchmarks/bundled.py --json benchmarks/results-bundled.json $(BENCH)

# Trains the bundled network again, in about an hour on two cores. A test fails if the structures are not measured again.
pretrain: $(READY)
	$(BIN)/tlcli pretrain --synthetic --out models/mobilenet_synthetic.yaml --overwrite --licence Apache-2.0
	$(BIN)/python scripts/measure_structures.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tlcli needs Python 3.11 or later: make PYTHON=python3.11 …"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

$(READY_EXTRAS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,$(EXTRAS)]' $(EXTRAS_SERVER)
	touch $(READY_EXTRAS)

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $(READY_DOCS)

clean:
	rm -rf $(VENV) build dist *.egg-info
