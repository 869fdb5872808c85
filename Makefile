# These commands do everything on a machine that has Rust, Python 3.11 or newer and a C compiler:
#   make serve   builds the server and serves models/
#   make retrain the retraining loop on this machine, with PostgreSQL, MLflow, S3, two servers and traffic
#   make loop    a CPU fault on this machine, from the z-score until its alert clears, in a real Kubernetes API
#   make chaos   replicas are killed, the network is slow, S3 is gone: nothing is lost
#   make s3      an S3 server on this machine, with models/ in it and two servers that serve from it
#   make test    runs every test
#   make fuzz    asks the decoders what nobody thought of, a minute each; make soak is a day of changes in a quarter of an hour
#   make terraform-check  checkov over terraform/, which is too large to install for every test
#   make images  container images of all programs, without a container engine; make test-images tests them
#   make dist    the PyPI wheel and archives of all programs for other machines; make test-dist tests them
# All that they install goes to .venv, .venv-checkov, .venv-clients, .venv-k8s, .venv-peers, .venv-release and target, in this folder.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
ARGS ?=
PEERS ?= fastapi kserve mlserver litserve bentoml mlflow rayserve

venv := .venv
pip := $(venv)/bin/pip install --disable-pip-version-check --require-hashes
runtime := $(venv)/.onnxruntime-installed
training := $(venv)/.training-installed
s3 := $(venv)/.s3-installed
clients := .venv-clients
cluster := .venv-k8s
checkov := .venv-checkov
kubernetes := target/kubernetes/bin/kube-controller-manager
peers := .venv-peers
release := .venv-release
machine := $(shell uname -m)
# The glibc of ONNX Runtime's own wheels: RHEL 8, Debian 10, Amazon Linux 2023 and what is newer. zig links for it anywhere.
glibc := 2.28
locks := $(filter-out benches/% target/%,$(wildcard */*.lock */*/*.lock */*/*/*.lock .github/*/*.lock .github/*/*/*.lock))
# Tests that wait leave a core to others. A file's tests stay together, for what they share.
parallel := --numprocesses 2 --dist loadfile
comma := ,
space := $(subst ,, )

.PHONY: serve s3 test fuzz soak train retrain loop chaos kubernetes images test-images terraform-check wheel dist test-dist check-tag audit bench micro bench-s3 bench-models peers locust tools clean

serve: $(runtime)
	@echo "==> the server (the first build takes some minutes)"
	cargo build --release --package onnxd
	@echo "==> http://localhost:8080/predict answers, gRPC is at localhost:8081; health, metrics and status are at http://localhost:8082"
	exec target/release/onnxd serve models $(ARGS)

# ARGS="--s3-port 9100 --first-port 8180 --second-port 8190" chooses other ports.
s3: $(runtime) $(s3)
	@echo "==> the server (the first build takes some minutes)"
	cargo build --release --package onnxd --package benches
	exec target/release/benches s3 --onnxd target/release/onnxd $(ARGS)

test: $(training) $(s3) $(clients)/.installed $(cluster)/.installed $(release)/.checks-installed $(kubernetes)
	@echo "==> Rust"
	cargo test --workspace
	cargo test --workspace --bench micro
	@echo "==> Python"
	$(venv)/bin/ruff check training server/tests k8s gitops terraform .github/release
	$(venv)/bin/ruff format --check training server/tests k8s gitops terraform .github/release
	$(venv)/bin/ruff check --config training/pyproject.toml --ignore INP001 docs/verdict docs/reliability benches/peers benches/locust
	$(venv)/bin/ruff format --check --config training/pyproject.toml benches/peers benches/locust
	$(venv)/bin/python -m pytest --quiet $(parallel) training
	$(venv)/bin/python server/tests/fixtures/make.py --check
	@echo "==> other servers' clients"
	$(clients)/bin/python -m pytest --quiet server/tests/clients
	@echo "==> the cluster"
	$(cluster)/bin/python -m pytest --quiet $(parallel) k8s/tests gitops/tests terraform/tests
	$(venv)/bin/python -m pytest --quiet k8s/local
	@echo "==> releases"
	$(venv)/bin/python -m pytest --quiet .github/release/tests

# Each decoder is asked by libFuzzer for SECONDS, two at a time: five minutes, after the build. It needs g++.
fuzz:
	server/fuzz/run.sh $(or $(SECONDS),60) $(ARGS)

# Ten thousand changes and ten million rows, while S3 and challengers fail; then docs/reliability/soak.svg is drawn.
soak: $(training) $(s3)
	ONNXD_SOAK_CHANGES=10000 ONNXD_SOAK_ROWS=10000000 ONNXD_SOAK_TABLE=$(CURDIR)/docs/reliability/soak.csv \
		cargo test --workspace --test soak -- --nocapture
	$(venv)/bin/python docs/reliability/soak.py docs/reliability/soak.csv docs/reliability/soak.svg

# Trains the champion and the challenger anew and puts them into models/.
train: $(training)
	PYTHONPATH=training/src $(venv)/bin/python -m training init --replace $(ARGS)

# Drift, retraining, gates, shadow, verdict and promotion on this machine: about a minute, after the build. PostgreSQL
# must be installed (apt-get install postgresql). ARGS=--keep leaves everything running to look at.
retrain: $(training) $(s3)
	@echo "==> the server (the first build takes some minutes)"
	cargo build --release --package onnxd
	PYTHONPATH=training/src $(venv)/bin/python -m training local $(ARGS)

# The loop of the runbook with real programs: a minute, after the builds. ARGS=--keep leaves everything running.
loop: $(training) $(s3) $(kubernetes)
	@echo "==> the server, the collector and the operator (the first build takes some minutes)"
	cargo build --package onnxd --package collector --package remediation-operator
	PYTHONPATH=k8s:training/src $(venv)/bin/python -m local loop $(ARGS)

# The faults of k8s/chaos* against two replicas on this machine: a minute, after the build.
chaos: $(training) $(s3)
	@echo "==> the server (the first build takes some minutes)"
	cargo build --package onnxd
	PYTHONPATH=k8s:training/src $(venv)/bin/python -m local chaos $(ARGS)

# kube-apiserver and kube-controller-manager for the tests and for make loop, from Debian's source: five minutes, once.
kubernetes: $(kubernetes)

# The images into target/images, on Debian or what derives from it (apt-get install buildah binutils). Each program by itself: built
# together, each would have the features that the others ask for.
# PROGRAMS=FOLDER takes those that lie there instead.
images: $(training)
	@echo "==> the programs (the first build takes some minutes)"
	$(if $(PROGRAMS),,for program in onnxd collector remediation-operator; do cargo build --release --package $$program || exit 1; done)
	$(venv)/bin/python k8s/images/build.py $(if $(PROGRAMS),--programs $(PROGRAMS)) $(ARGS)

# As root: they run each image with its own user, network and read-only root file system.
test-images: $(training)
	$(venv)/bin/python -m pytest --quiet k8s/images/tests

# Static analysis; what is passed over has its reason beside the resource.
terraform-check: $(checkov)/.installed
	$(checkov)/bin/checkov --directory terraform --framework terraform --skip-download --compact --quiet

# The server for PyPI into target/dist, for this kind of machine: ten minutes, the first time.
wheel: $(runtime) $(release)/.tools-installed
	@echo "==> the server (the first build takes some minutes)"
	rm -rf target/dist
	PYTHONPATH=k8s/images $(venv)/bin/python .github/release/package.py --licences server/LICENSE-third-party.txt
	PATH="$(CURDIR)/$(release)/bin:$$PATH" maturin build --release --locked --zig --compatibility manylinux_$(subst .,_,$(glibc)) \
		--manifest-path server/Cargo.toml --out target/dist $(ARGS)

# The wheel, and an archive of each program with its licences and bill of materials, into target/dist.
dist: wheel
	for program in collector remediation-operator; do PATH="$(CURDIR)/$(release)/bin:$$PATH" \
		cargo zigbuild --release --locked --target $(machine)-unknown-linux-gnu.$(glibc) --package $$program || exit 1; done
	PYTHONPATH=k8s/images $(venv)/bin/python .github/release/package.py --built target/$(machine)-unknown-linux-gnu/release

# What lies in target/dist is unpacked, installed and asked.
test-dist: $(training)
	$(venv)/bin/python -m pytest --quiet .github/release/tests/test_dist.py --released target/dist

# Fails unless TAG, of the environment, is that of the version that is built here.
check-tag:
	@test "$$TAG" = "v$$(sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)" || { echo "the tag is not the version in Cargo.toml" >&2; exit 1; }

# Known faults, licences and sources of what the project depends on: the lists of faults are on the web. Some minutes, the first time.
audit: $(release)/.tools-installed
	cargo install --quiet --locked --root target/tools cargo-deny@0.20.2
	PATH="$(CURDIR)/target/tools/bin:$$PATH" cargo deny check
	for lock in $(locks); do $(release)/bin/pip-audit --require-hashes --disable-pip --requirement $$lock || exit 1; done

# How near onnxd is to its floors, and what a bad challenger costs, in one run on this machine; about twelve minutes.
bench: $(runtime)
	cargo build --release --package onnxd --package benches
	target/release/benches reach $(if $(wildcard target/bench-models),--models target/bench-models) $(ARGS)
	target/release/benches shadow --onnxd target/release/onnxd $(ARGS)

# The server's parts by themselves beside their floors: a minute, after the build. ARGS="decode" takes only those.
micro: $(runtime)
	cargo bench --package benches --bench micro -- $(ARGS)

# How fast replicas take up a promotion in S3; about seven minutes.
bench-s3: $(runtime) $(s3)
	cargo build --release --package onnxd --package benches
	target/release/benches promotion --onnxd target/release/onnxd $(ARGS)

# onnxd beside what people would serve a model with in Python; about a quarter of an hour, and some more to install.
# PEERS="mlserver kserve" takes only those, ARGS="--rounds 1" is for the measurement.
peers: $(runtime) bench-models $(foreach p,$(PEERS),$(peers)/$(p)/.installed)
	cargo build --release --package onnxd --package benches
	target/release/benches peers --onnxd target/release/onnxd --peers $(subst $(space),$(comma),$(strip $(PEERS))) $(ARGS)

# The runbook's load test for some seconds against a server of its own; fails unless answers and metrics are as meant.
locust: $(runtime) $(peers)/locust/.installed
	cargo build --release --package onnxd
	$(peers)/locust/bin/python benches/locust/check.py --onnxd target/release/onnxd --repository models

# The models of the benches into target/bench-models, a repository like any other.
bench-models: target/bench-models/mlp/aliases.json

target/bench-models/mlp/aliases.json: benches/peers/models.py $(peers)/models/.installed
	$(peers)/models/bin/python $< target/bench-models

$(runtime): server/onnxruntime.lock | tools
	@echo "==> ONNX Runtime into $(venv), checked by its hash"
	@test -x $(venv)/bin/pip || $(PYTHON) -m venv $(venv) || { echo "a Python environment cannot be made: install python3-venv" >&2; exit 1; }
	$(pip) --no-deps --requirement server/onnxruntime.lock
	@touch $@

$(training): training/requirements.lock $(runtime) | tools
	@echo "==> the training's packages into $(venv), checked by their hashes"
	$(pip) --requirement training/requirements.lock
	@touch $@

# After the training's: both name packages that the other one needs, at the same versions.
$(s3): server/tests/requirements.lock $(training) | tools
	@echo "==> the tests' S3 server into $(venv), checked by its hashes"
	$(pip) --requirement server/tests/requirements.lock
	@touch $@

# An environment of its own: they name other versions of what training needs, and nobody but the tests wants them.
$(clients)/.installed: server/tests/clients/requirements.lock | tools
	$(call environment,the clients of other servers)

# What builds releases, and what checks how they are built: apart, since zig is large and no test needs it.
$(release)/.tools-installed: .github/release/requirements.lock | tools
	$(call environment,the tools of $<)

$(release)/.checks-installed: .github/release/tests/requirements.lock | tools
	$(call environment,the tools of $<)

# Kept between lock files: one names all that it needs, and others may share the folder.
define environment
	@echo "==> $(1) into $(@D), checked by their hashes"
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D) || { echo "a Python environment cannot be made: install python3-venv" >&2; exit 1; }
	@$(@D)/bin/pip install --disable-pip-version-check --quiet --require-hashes --requirement $<
	@touch $@
endef

# What checks manifests, rules, dashboards, applications and Terraform's code.
$(cluster)/.installed: k8s/tests/requirements.lock | tools
	$(call environment,the checks of k8s/ with those of gitops/ and terraform/)

$(checkov)/.installed: terraform/tests/checkov.lock | tools
	$(call environment,checkov (290 MB and two minutes))

$(kubernetes): k8s/tests/kubernetes/build.sh k8s/tests/kubernetes/go.lock | tools
	@echo "==> kube-apiserver and kube-controller-manager into target/kubernetes (five minutes, once)"
	PYTHON=$(PYTHON) k8s/tests/kubernetes/build.sh target/kubernetes
	@touch $@

# One for each server that onnxd is compared with, since they disagree about versions; one for what makes the models.
$(peers)/%/.installed: benches/peers/%/requirements.lock | tools
	$(peer-environment)

$(peers)/locust/.installed: benches/locust/requirements.lock | tools
	$(peer-environment)

# Made anew: what an older lock file named would count as installed.
define peer-environment
	@echo "==> $(@D), checked by its hashes"
	@$(PYTHON) -m venv --clear $(@D) || { echo "a Python environment cannot be made: install python3-venv" >&2; exit 1; }
	@$(@D)/bin/pip install --disable-pip-version-check --quiet --require-hashes --requirement $<
	@touch $@
endef

tools:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: install gcc or clang" >&2; exit 1; }
	@test -n "$(PYTHON)" || { echo "Python is missing: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: install Python 3.11 or newer, or name one with PYTHON=" >&2; exit 1; }

clean:
	rm -rf target $(venv) $(checkov) $(clients) $(cluster) $(peers) $(release)
