# Every target installs what it needs into .venv first: with uv where that is on PATH, else with venv and pip,
# both from requirements.lock. `make help` lists the targets.

CONFIG ?= configs/stock_groupby.yaml
ARGS ?=
KEEP ?=
# Kubernetes: what all pods run, and what `make deploy` puts into the namespace `pipelines`.
IMAGE ?= pipelines:0.1.0
OVERLAY ?= deploy/k8s/overlays/dev
# The interpreter to make .venv with; empty: the first of PYTHONS that runs and is new enough.
PYTHON ?=
PYTHONS := python3.13 python3.12 python3.11 python3

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CRDS := daskautoscalers.kubernetes.dask.org daskclusters.kubernetes.dask.org daskjobs.kubernetes.dask.org daskworkergroups.kubernetes.dask.org
TYPED = $(wildcard pipelines benchmarks examples data/make_stocks.py)

.DEFAULT_GOAL := help
.PHONY: help install run-local image deploy run-k8s undeploy test test-faults test-k8s check format bench lock crds clean
MAKEFLAGS += --no-print-directory

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1	\2/p' $(firstword $(MAKEFILE_LIST)) | \
	  while IFS='	' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## Install everything into .venv; the other targets do it themselves (PYTHON=python3.12)
	@:

run-local: $(STAMP) ## Run a pipeline on this machine (CONFIG=configs/x.yaml, KEEP=1, ARGS=...)
	@$(PY) -m pipelines run $(CONFIG) --executor local --performance-report $(if $(KEEP),--keep) $(ARGS)

image: ## Build the image for Kubernetes (IMAGE=registry/pipelines:0.1.0)
	@docker build --tag $(IMAGE) .

# The definitions have to be known before anything uses them; kubectl fails where they have no state at all yet.
deploy: ## Install Dask's operator and the namespace `pipelines` (IMAGE=..., OVERLAY=deploy/k8s/overlays/prod)
	@kubectl apply --server-side --force-conflicts -f deploy/k8s/operator/crds/
	@for try in 1 2 3; do kubectl wait --for=condition=Established --timeout=60s $(addprefix crd/,$(CRDS)) && exit; sleep 1; done; exit 1
	@kubectl rollout restart --namespace pipelines-system deployment/pipelines-operator 2>/dev/null || true # the image may be another under the same name
	@kubectl kustomize deploy/k8s/operator | sed 's#image: pipelines:.*#image: $(IMAGE)#' | kubectl apply --server-side --force-conflicts -f -
	@kubectl apply --server-side --force-conflicts -k $(OVERLAY)
	@kubectl rollout status --namespace pipelines-system --timeout=300s deployment/pipelines-operator

run-k8s: $(STAMP) ## Run a pipeline on Kubernetes (CONFIG=configs/x.yaml, IMAGE=..., ARGS=...)
	@$(PY) -m pipelines k8s submit $(CONFIG) --image $(IMAGE) --namespace pipelines --wait $(ARGS)

# Clusters first: the operator takes its marks off them, without which they cannot go. Then the operator: with a pod that takes its time
# to end, Kubernetes looks at a namespace's end again only after a while. A node may take a minute more than a pod to be rid of it.
undeploy: ## Remove everything that `make deploy` and runs left
	@kubectl delete daskjobs,daskclusters,daskworkergroups,daskautoscalers --all --namespace pipelines --timeout=120s --ignore-not-found || true
	@kubectl delete deployment pipelines-operator --namespace pipelines-system --cascade=foreground --timeout=180s --ignore-not-found
	@kubectl delete -k $(OVERLAY) --ignore-not-found --timeout=120s
	@kubectl delete -k deploy/k8s/operator --ignore-not-found --timeout=120s

test: $(STAMP) ## Run the tests, without those that need Kubernetes or inject faults (ARGS="-k word")
	@$(PY) -m pytest -q -m "not k8s and not faults" $(ARGS)

test-faults: $(STAMP) ## Kill processes, run out of memory (KILLS=100 times; ARGS=...)
	@$(PY) -m pytest -q -m faults $(ARGS)

test-k8s: $(STAMP) ## Run the tests that need a Kubernetes cluster (ARGS=...)
	@$(PY) -m pytest -q -m k8s $(ARGS)

check: $(STAMP) ## Check lint, format, types and the direction of imports
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy $(TYPED)
	@$(VENV)/bin/lint-imports --no-logo

format: $(STAMP) ## Format the code and repair what lint can repair
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

bench: $(STAMP) ## Run the benchmarks (ARGS=...)
	@$(PY) -m benchmarks $(ARGS)

# Keeps the versions that are locked; ARGS=--upgrade takes the newest that the pins in pyproject.toml allow.
lock: ## Write requirements.lock anew from pyproject.toml; needs uv (ARGS=--upgrade)
	@uv pip compile pyproject.toml --quiet --all-extras --universal --generate-hashes --python-version 3.11 \
	  --fork-strategy fewest --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	@uv pip compile pyproject.toml --quiet --extra k8s --extra ml --extra s3 --universal --generate-hashes --python-version 3.11 \
	  --fork-strategy fewest --custom-compile-command "make lock" --constraint requirements.lock \
	  --output-file deploy/requirements.lock

crds: $(STAMP) ## Copy the definitions of Dask's kinds from the installed dask-kubernetes
	@$(PY) -c "import pathlib, shutil; from pipelines.k8s.manifests import definitions; \
	  [shutil.copyfile(path, pathlib.Path('deploy/k8s/operator/crds', path.name)) for path in definitions().glob('*.yaml')]"

clean: ## Remove .venv and all caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate is tried by running it: names on PATH may be wrappers around nothing. Without uv it has to have venv and
# pip too, which some systems package apart. What is found is the interpreter itself, never one inside an active
# environment, for that may be the very .venv that is replaced here.
$(STAMP): pyproject.toml requirements.lock
	@set -eu; \
	uv=; needs=', venv, ensurepip'; \
	if uv --version >/dev/null 2>&1; then uv=uv; needs=; fi; \
	probe="import sys$$needs; assert sys.version_info >= (3, 11); print(getattr(sys, '_base_executable', sys.executable))"; \
	version='import sys; print("%d.%d.%d" % sys.version_info[:3])'; \
	base=; \
	for name in $(or $(PYTHON),$(PYTHONS)); do \
	  if base=$$($$name -c "$$probe" 2>/dev/null); then break; fi; \
	  base=; \
	done; \
	if [ -z "$$base" ]; then \
	  echo "error: found no Python 3.11 or later$${needs:+ with venv and pip} among: $(or $(PYTHON),$(PYTHONS)). Set PYTHON=/path/to/python." >&2; \
	  exit 1; \
	fi; \
	new=$$($$base -c "$$version"); \
	if [ "$$($(PY) -c "$$version" 2>/dev/null)" != "$$new" ]; then rm -rf $(VENV); fi; \
	echo "Installing into $(VENV) with $${uv:-pip}, Python $$new ..." >&2; \
	if [ -n "$$uv" ]; then \
	  [ -d $(VENV) ] || uv venv --quiet --no-project --python "$$base" $(VENV); \
	  uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements.lock; \
	  uv pip install --quiet --compile-bytecode --python $(PY) --no-deps --no-build-isolation --editable .; \
	else \
	  "$$base" -m venv $(VENV); \
	  $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock; \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi; \
	touch $(STAMP)
