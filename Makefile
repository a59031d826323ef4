# Each target sets up what it needs in .venv; a second run skips what is done.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The pipeline needs no account and no network but the package index.
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help setup data repro verify audit relabel judge adopt split test check lint audit-deps sbom sign release promote serve

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready ## .venv with the pinned requirements

PIP = python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/.ready: requirements.txt $(wildcard serving/requirements*.txt) constraints.txt | .venv/bin/python
	$(PIP) -r requirements.txt
	touch .venv/.serving $@

# What serving needs, and DVC to pull the model; `setup` adds the rest.
.venv/.serving: serving/requirements.txt constraints.txt | .venv/bin/python
	$(PIP) -r serving/requirements.txt $(shell grep -o '^dvc==[^ ]*' requirements.txt)
	touch $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv

data: setup ## the photos that data_cars.dvc names
	@test -d data_cars || dvc pull --quiet data_cars.dvc || { rm -rf data_cars; exit 1; }

repro: data ## photos -> model, threshold, metrics, speed
	dvc repro
	@python -m tools.summary

verify: data ## the whole pipeline once more in a temporary clone: is every output what dvc.lock says?
	python -m tools.verify

audit: data ## suspected wrong labels, ranked on reports/split_check.html
	python -m tools.audit

relabel: setup ## what the page's FILE=corrections.csv would do; APPLY=1 does it
	python -m tools.relabel $(if $(FILE),--file '$(FILE)') $(if $(APPLY),--apply)

split: setup ## a leak-free split of FROM=photos/{clean,dirty}: a plan; COPY=1 copies (TO=, SHARES=70/15/15, SEED=0)
	python -m tools.split $(if $(FROM),'$(FROM)') $(if $(TO),--to '$(TO)') $(if $(SHARES),--shares $(SHARES)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(SKIP_UNREADABLE),--skip-unreadable) $(if $(COPY),--copy)

judge: setup ## a page to judge the photos that the service kept in AUDIT_DIR=; JUDGES=2 shows each to two people
	python -m tools.judge '$(AUDIT_DIR)' $(if $(JUDGES),--judges $(JUDGES)) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

adopt: setup ## judged photos of FILE=judgements.csv and AUDIT_DIR= to train: a plan; APPLY=1 does it
	python -m tools.adopt '$(FILE)' '$(AUDIT_DIR)' $(if $(APPLY),--apply)

PYTEST = python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: data lint ## lint and the tests but those marked slow
	$(PYTEST) -m 'not slow'

check: data ## the slow tests, whether dvc.lock is current, a few of the faults of the service, the GPU benchmark without one
	$(PYTEST) -m slow
	python -m benchmarks.faults --quick --only service --seed 1
	python -m benchmarks.gpu --cpu --models test_efficientnet --size 64 --batch 4 --steps 2 --seconds 0.05 \
	  --matrix 64 --no-compile

lint: setup ## ruff and mypy
	ruff check
	ruff format --check
	mypy

# In a venv of its own: what pip-audit needs must not decide what we pin. --strict: a package that was not checked fails.
audit-deps: ## known vulnerabilities in the pinned packages, but those explained in audit-ignore.txt
	test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install -q pip-audit==2.10.1; }
	.venv/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt $$(sed -nE 's/^([A-Z][^ ]+) .*/--ignore-vuln \1/p' audit-ignore.txt)

# Of an environment with the image's own packages; the tool lives in a venv of its own, as pip-audit does.
sbom: .venv/bin/python ## sbom.json, in CycloneDX: what the image installs, CUDA apart
	test -x .venv/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv .venv/sbom && .venv/sbom/bin/pip install -q cyclonedx-bom==7.5.0; }
	$(PYTHON) -m venv --clear --without-pip .venv/image
	python -m pip --python .venv/image/bin/python install --quiet -r serving/requirements.txt -c constraints.txt
	.venv/sbom/bin/cyclonedx-py environment .venv/image/bin/python --output-reproducible --output-file sbom.json

sign: setup ## artifacts/best.onnx.sig by KEY=key.pem, which the service checks with VERIFY_KEY=pub.pem
	python -m model_signing sign key artifacts/best.onnx --signature artifacts/best.onnx.sig --allow_symlinks \
	  --private_key '$(or $(KEY),$(error say which key: make sign KEY=key.pem; README.md tells how to make one))'

release: setup ## publish the certified model of HEAD as VERSION=1.2.0: push it, and tag dirty-car@v1.2.0
	python -m tools.release '$(VERSION)'

promote: setup ## assign STAGE=prod to the released VERSION=1.2.0, by a tag
	python -m tools.release '$(VERSION)' --stage '$(STAGE)'

serve: .venv/.serving artifacts/best.onnx ## the service on port 8000, with the model of dvc.lock; needs no training
	gunicorn -c serving/gunicorn.conf.py 'serving.app:create_app()'

artifacts/best.onnx: | .venv/.serving
	dvc pull --quiet $@ || { echo 'no model of this dvc.lock was released; `make repro` trains one'; exit 1; }
