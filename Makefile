# SPDX-License-Identifier: Apache-2.0
# The front door. Every target sets up what it needs; CI calls the same ones (.ci/run).

PY := .venv/bin/python
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test build debug lint format bench clean dev ctest pytest

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

demo: build ## a gateway, two clients and a backend in namespaces: real traffic, under 30 s after the set-up
	@$(PY) -m bench.demo

test: ctest pytest ## C tests under ASan+UBSan, then every Python test

build: ## Debian packages, virtual environment, libsodium, libjv, Cython modules
	@.ci/setup build

debug: ## the same with -O0 -g; `make build` goes back
	@.ci/setup debug

lint: dev ## ruff, mypy --strict, cython-lint, clang-format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	PATH=.venv/bin:$$PATH cython-lint gateway/dataplane
	.venv/bin/clang-format --dry-run -Werror $$(find csrc tests bench -name '*.[ch]')

format: dev ## rewrite what lint would complain about
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	.venv/bin/clang-format -i $$(find csrc tests bench -name '*.[ch]')

bench: dev ## burst benchmarks, into bench/out/micro.json
	@mkdir -p bench/out
	$(PY) -m pytest bench/micro --benchmark-only --benchmark-json=bench/out/micro.json \
	    --benchmark-columns=min,median,ops,rounds --benchmark-sort=fullname

clean: ## remove everything that was built (not the virtual environment's downloads)
	rm -rf build gateway/_lib gateway/dataplane/*.so bench/out .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# --- parts of the above ---

dev:
	@.ci/setup dev

ctest: dev
	@JVPN_WERROR=1 $(PY) setup.py -q ctest

pytest: ctest
	$(PY) -m pytest tests
