# SPDX-License-Identifier: Apache-2.0
# make demo | make test take a fresh clone to done; everything else is a part of them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
ENV := source tools/env.sh &&
OUT ?= out
PYTHON ?= python3
export PYTHON

.PHONY: help build demo test lint bench reproduce-check clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:  ## set up .venv (or use the sourced ROS 2) and build the package
	@tools/setup.sh

demo: build  ## fly over a generated world (or FLIGHT=folder) through the live graph; table and $(OUT)/demo/report.html
	@$(ENV) geoloc demo $(if $(FLIGHT),--flight "$(FLIGHT)") --out $(OUT)/demo

test: build  ## ruff, mypy, all tests, coverage
	@tools/test.sh

lint: build  ## ruff and mypy only
	@tools/test.sh --lint-only

bench: build  ## every engine, each stage, search in a gallery and the live graph under load; figures in $(OUT)/bench
	@$(ENV) geoloc export --missing; geoloc bench engines --out $(OUT)/bench \
	  && geoloc bench stages --out $(OUT)/bench \
	  && geoloc bench engines --structure mix_cvt13_fpn_linear --rounds 4 --out $(OUT)/bench \
	  && geoloc bench gallery --tiles 100000 --json $(OUT)/bench/gallery.json \
	  && geoloc bench graph --out $(OUT)/bench

reproduce-check: build  ## parameters and MACs of the paper's networks, ours beside the reference's
	@$(ENV) python tools/reproduce_check.py

clean:  ## remove everything that was made here
	rm -rf .venv build install log $(OUT)
