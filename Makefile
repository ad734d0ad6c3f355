# crossview_nb: `make demo`, `make test`, `make lab`. Each makes its own environment in .venv first.
#
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    the same with PyTorch's much smaller CPU wheels
#   make demo PYTHON=python3.12                                   with another Python (3.11 to 3.13)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

VENV        ?= .venv
PYTHON      ?=
# The pair that everything here was run with; the package itself is content with any torch from 2.4 on.
TORCH       ?= torch==2.14.1 torchvision==0.29.1
TORCH_INDEX ?=

# The demo: about three minutes of training on two CPU cores. For their sake the networks are narrower than the paper's, the
# batches smaller, and the learning rate is 2.5 times as high. And the discriminator has two layers: the paper's three see the
# whole of a picture of 64 pixels, and teach worse (nbs/study).
DEMO_PAIRS  ?= 1000
DEMO_BATCH  ?= 8
DEMO_WIDTH  ?= 24
DEMO_LAYERS ?= 2
DEMO_RATE   ?= 5e-4
DEMO_EPOCHS ?= 30

# Tests: so many at a time, each on one thread (notebooks that ask for two don't hold the other's core while they wait);
# a worker and the notebook that it runs take about 3 GB.
TEST_WORKERS ?= 2

bin := $(VENV)/bin
pip  = $(bin)/python -m pip install --disable-pip-version-check $$([ -t 1 ] || echo -q)

.PHONY: help env demo test test-all lab play readme check clean-demo clean

help:
	@echo 'make demo        render a small town, train X-Fork on it for three minutes, look at the streets it imagines'
	@echo 'make test        every test, and every notebook once; make test-all: each notebook in every way that it can be run'
	@echo 'make lab         JupyterLab on the notebooks (this machine only)'
	@echo 'make play        the explore notebooks as an app, without code: for showing to a class (this machine only)'
	@echo 'make readme      README.md anew from nbs/index.ipynb'
	@echo 'make check       are notebooks, package and README in step?'
	@echo 'make clean-demo  forget what the demo rendered and learnt;  make clean  the environment too'

# --- the environment -------------------------------------------------------------------------------------------

env: $(VENV)/.installed

# Two stamps, so that a change of settings.ini brings new packages into the old environment, and an interrupted
# start (a folder without pip in it) is begun again.
$(VENV)/.created:
	@python=; \
	for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'This needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),python3) is none of them.' >&2; \
	  echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv) or name yours: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; \
	fi; \
	echo "Making an environment in $(VENV) with $$($$python --version)"; \
	"$$python" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created settings.ini setup.py pyproject.toml
	@echo 'Installing PyTorch and the notebook tools: $(if $(TORCH_INDEX),from $(TORCH_INDEX),about 3 GB to download and 6 GB on disk on Linux).'
	@$(if $(TORCH_INDEX),,echo 'No GPU? make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu downloads about 0.4 GB instead.')
	@$(if $(TORCH_INDEX),$(pip) --index-url $(TORCH_INDEX) $(TORCH))
	@$(pip) $(TORCH) -e '.[dev]'
	@touch $@

# --- what a visitor does ---------------------------------------------------------------------------------------

# The sample pairs are the first of the same series, so what is rendered goes on where they end. Everything here may be
# interrupted and called again: pairs that are there are kept, and training goes on from its last checkpoint.
demo: $(VENV)/.installed
	@echo; echo '== 1/3  A town to learn from: the sample pairs and $(DEMO_PAIRS) more'
	@mkdir -p demo/data && cp -R data_samples/toytown64/train data_samples/toytown64/val demo/data/
	@samples=$$(ls data_samples/toytown64/train/*.png | wc -l) && \
	$(bin)/crossview toytown demo/data --split train --n $$((samples + $(DEMO_PAIRS))) --size 64 --seed 0
	@echo; echo '== 2/3  X-Fork learns to see the street from the air: $(DEMO_EPOCHS) epochs'
	@$(bin)/crossview train --regime fork --data-root demo/data --phase train --direction a2g --size 64 \
	  --batch-size $(DEMO_BATCH) --ngf $(DEMO_WIDTH) --ndf $(DEMO_WIDTH) --n-layers $(DEMO_LAYERS) --learning-rate $(DEMO_RATE) \
	  --epochs $(DEMO_EPOCHS) --save-epochs 10 --name demo --continue-training
	@echo; echo '== 3/3  Streets that it has never seen'
	@$(bin)/crossview test --data-root demo/data --phase val --name demo
	@echo; echo 'Open the page in a browser. Call make demo DEMO_EPOCHS=60 to go on learning, make lab to see how it works.'

pytest = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(bin)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

test: $(VENV)/.installed
	@$(pytest)

# From the wheel as on Colab and from the checkout through nbdev, whichever kind the notebook is of.
test-all: $(VENV)/.installed
	@CROSSVIEW_EVERY_WAY=1 $(pytest)

# JupyterLab's own token stays on; the address with the token in it is printed, and a browser opened where there is one.
lab: $(VENV)/.installed
	@$(bin)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=$(CURDIR) \
	  --LabApp.default_url=/lab/tree/nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

# Voila runs a notebook anew for each visitor and shows what it displays, not its code. The address with the token in it is printed.
# It serves all of nbs/, so that the explore notebooks' links to the others lead somewhere.
play: $(VENV)/.installed
	@echo 'Open the address below, and there the folder explore.'
	@PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/voila nbs --Voila.ip=127.0.0.1 --token

# --- what a contributor does -----------------------------------------------------------------------------------

readme: $(VENV)/.installed
	@$(bin)/python tools/readme.py

check: $(VENV)/.installed
	@PATH="$(CURDIR)/$(bin):$$PATH" tools/in_step

clean-demo:
	rm -rf demo checkpoints/demo results/demo

clean: clean-demo
	rm -rf $(VENV) build dist crossview_nb.egg-info _proc _docs
