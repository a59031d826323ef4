# Each target sets up what it needs in .venv; a second run skips what is done.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The pipeline needs no account and no network but the package index.
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help setup data repro test lint serve

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/.ready ## .venv with the pinned requirements

.venv/.ready: requirements.txt serving/requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

data: setup ## the photos that data_cars.dvc names
	@test -d data_cars || dvc pull --quiet data_cars.dvc || { rm -rf data_cars; exit 1; }

repro: data ## photos -> model, threshold, metrics, speed
	dvc repro
	@python -m stages.common.summary

test: data lint ## lint and all tests
	python -m pytest

lint: setup ## ruff and mypy
	ruff check
	ruff format --check
	mypy

serve: setup ## the service on port 8000, with the pipeline's artifacts
	gunicorn -c serving/gunicorn.conf.py 'serving.app:create_app()'
