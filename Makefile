# SPDX-License-Identifier: Apache-2.0
# The front door. Every target sets up what it needs; CI calls the same ones (.ci/run).

PY := .venv/bin/python
SHELL := /bin/bash
.DEFAULT_GOAL := help
PREFIX ?= /usr/local
export PREFIX DESTDIR
.PHONY: help demo test retest build install uninstall deb debug lint format man bench bench-failover bench-tunnel bench-ops profile clean dev ctest pytest

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: build ## real traffic in namespaces: a gateway, two clients and a backend; then a session that loses its links
	@$(PY) -m bench.demo
	@$(PY) -m bench.demo.jumping

retest: dev ## run again what failed in the last `make test`
	@.ci/tests again

test: ctest pytest ## C tests under ASan+UBSan and TSan, then every Python test

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

man: build ## docs/man/jvpn.1 and jvpn.toml.5, from the commands and docs/configuration.md
	@$(PY) docs/man/make.py

bench: dev ## burst benchmarks, into bench/out/micro.json
	@mkdir -p bench/out
	$(PY) -m pytest bench/micro --benchmark-only --benchmark-json=bench/out/micro.json \
	    --benchmark-columns=min,median,ops,rounds --benchmark-sort=fullname

bench-failover: dev ## failover figures beside wireguard-go, into bench/out/failover.json (RUNS=3 for a quick look)
	@$(PY) -m bench.failover

bench-tunnel: dev ## throughput, CPU and latency beside four other tunnels, into bench/out/tunnel.json (RUNS= PEERS= ONLY=)
	@.ci/setup peers
	@$(PY) -m bench.tunnel

.PHONY: bench-ops
bench-ops: dev ## what watching a gateway with 5,000 sessions costs it, into bench/out/ops.json (RUNS= SESSIONS=)
	@$(PY) -m bench.ops

.PHONY: bench-load
bench-load: dev ## a gateway with many clients: start, memory, handshakes, rates, idle cost, into bench/out/load*.json|svg (SESSIONS=1000,10000)
	@$(PY) -m bench.load

.PHONY: bench-storm
bench-storm: dev ## what goes wrong for thousands of clients at once, beside traffic, into bench/out/storm*.json|svg (SCENARIOS=)
	@$(PY) -m bench.load.storm

.PHONY: bench-plane
bench-plane: dev ## what a packet costs the data plane alone with 100 to 1,000,000 sessions, into bench/out/load-plane.json
	@$(PY) -m bench.load.plane

.PHONY: soak
soak: dev ## an hour of churn and failures with 100,000 clients, into bench/out/storm-soak.svg (SCALE=0.1 for fewer)
	@$(PY) -m bench.load.storm soak --minutes 120 --scale $(or $(SCALE),1)

.PHONY: image
image: build ## the appliance: disk image into build/image (raw, qcow2, vmdk, vhd, update); ISO=1 for the ISO too; needs root
	@.ci/setup image
	@$(PY) -m appliance.image $(if $(ISO),--iso) $(IMAGE_ARGS)

.PHONY: test-image
test-image: dev ## boot what `make image` made in QEMU, with BIOS and UEFI, and use, update, break and reset it (ONLY=short)
	@.ci/setup image
	@$(PY) -m pytest $(if $(ONLY),tests/image/test_$(ONLY).py,tests/image) -s -o cache_dir=build/pytest-image

profile: dev ## flame graphs of the gateway under load, into bench/out/profile-*.svg (needs perf; PEERS=)
	@.ci/setup profile
	@$(PY) -m bench.tunnel.profile

install: build ## into PREFIX (/usr/local), below DESTDIR: program, libraries, units, man pages, completions
	@$(PY) .ci/install

uninstall: ## remove what `make install` installed there; configuration and state stay
	@python3 .ci/install --uninstall

deb: build ## a Debian package for this machine's Python, into build/deb
	@.ci/package

clean: ## remove everything that was built (not the virtual environment's downloads, nor the key that signs updates)
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name image-key -exec rm -rf {} +
	rm -rf gateway/_lib gateway/dataplane/*.so bench/out .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# --- parts of the above ---

dev:
	@.ci/setup dev

ctest: dev
	@JVPN_WERROR=1 $(PY) setup.py -q ctest
	@JVPN_WERROR=1 $(PY) setup.py -q threadtest

pytest: ctest
	@.ci/tests
