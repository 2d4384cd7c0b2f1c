# animedrag: from a folder of drawings to an edited picture. `make help` lists every verb.
#
# Any setting of any stage can follow in ARGS: make train CHARACTER=ganyu ARGS="train.kimg=100".
# What a run needs is remembered: a verb called twice reuses what is finished.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
RUN    := $(PY) -m scripts.run
# The same for the verbs that several processes can share.
SHARED  = $(if $(filter-out 1,$(PROCESSES)),$(PY) -m scripts.launch --processes $(PROCESSES),$(RUN))

CHARACTER ?= ganyu
DATA      ?=
NETWORK   ?=
IMAGE     ?=
POINTS    ?=
RECIPE    ?=
EMOTION   ?=
STRENGTH  ?=
SLIDERS   ?=
SEEDS     ?=
ANIMATION ?=
ARGS      ?=
# How many processes share the work of train, finetune and evaluate; gpu: one a GPU.
PROCESSES ?= 1
# The model that a fine-tuning starts from: model/NAME, a folder, or a network pickle. The small one
# that ships with the code unless told otherwise.
BASE      ?= $(if $(filter finetune,$(MAKECMDGOALS)),assets/start-64)

comma := ,
# Only what is given becomes a setting; conf/ decides the rest.
COMMON := "character=$(CHARACTER)" $(if $(NETWORK),"network=$(NETWORK)")
SOURCE := $(if $(DATA),source=folder "source.path=$(DATA)",$(if $(filter source=%,$(ARGS)),,source=kaggle))


# A pickle is imported first, and called by this name. Its data set has the base's size and framing.
BASE_FILE  := $(filter %.pkl %.pt,$(BASE))
BASE_MODEL := $(if $(BASE_FILE),model/$(or $(NAME),$(CHARACTER)-base),$(BASE))
BASE_FIRST := $(if $(BASE_FILE),import$(comma))
BASE_ARGS  := $(if $(BASE_FILE),"import.pkl=$(BASE)" "import.name=$(or $(NAME),$(CHARACTER)-base)") \
  $(if $(BASE),"preprocess.like=$(BASE_MODEL)" $(foreach stage,train finetune pretrain,"$(stage).resume_from=$(BASE_MODEL)"))

# What is made of MODEL=x, model/x or model/x:v3 is called x; of a folder, as the character is.
MODEL_NAME := $(if $(or $(filter model/%,$(MODEL)),$(if $(findstring /,$(MODEL)),,$(MODEL))),$(firstword $(subst :, ,$(patsubst model/%,%,$(MODEL)))),$(CHARACTER))

.DEFAULT_GOAL := help
.PHONY: help setup kernels gpucheck demo studio test lint preprocess pretrain train finetune reader read emotion-presets import export encoder invert directions edit emotions animate batch evaluate compare samples report doctor bench bench-invert bench-drag bench-emotions compare-emotions clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-15s %s\n", $$1, $$2 }'

setup: $(VENV)/.ready build/kernels/.made ## make .venv, install the tested versions, fetch model files, check the machine

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 13)))' || { \
	  echo "animedrag needs Python 3.11 or 3.12, and $(PYTHON) is another; run: make setup PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)."; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the tested versions into $(VENV) (about 2 minutes) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@$(PY) -m scripts.fetch_weights
	@touch $@

# Again after `make clean` or a change of the sources; what is already compiled is found, not made.
build/kernels/.made: $(VENV)/.ready $(wildcard torch_utils/csrc/*.cpp torch_utils/csrc/*/*)
	@$(PY) -m scripts.build_kernels
	@$(PY) -m scripts.doctor --quiet
	@mkdir -p $(@D) && touch $@

kernels: $(VENV)/.ready ## compile the fast operators for this processor and GPU (setup does)
	$(PY) -m scripts.build_kernels --strict

gpucheck: setup ## check the CUDA kernels on a GPU and measure them: writes docs/measurements.md
	$(PY) -m scripts.gpu_check $(ARGS)

studio: setup ## edit drawings on a page in the browser; see docs/studio.md: ARGS="--port 7861 --browser"
	$(PY) -m scripts.studio $(ARGS)

# ---- the road ----------------------------------------------------------------------------------

DEMO_UPLOAD := build/demo/upload/scene000000.png
# NETWORK=stylegan3-t means its small form here; a network of another shape starts from scratch.
DEMO_NETWORK := $(if $(NETWORK),network=$(patsubst %-tiny,%,$(NETWORK))-tiny pretrain.resume_from=null preprocess.resolution=64)

demo: setup $(DEMO_UPLOAD) ## the whole road on a CPU in about 10 minutes: paint, preprocess, pretrain, invert, edit, report
	$(RUN) experiment=demo "stage=[preprocess,pretrain,invert,edit,report]" \
	  $(DEMO_NETWORK) invert.image=$(DEMO_UPLOAD) $(ARGS)
	@echo "Open the report: $$($(PY) -m scripts.artifacts path report/demo)/report.html"

# The picture that the demo edits: a scene of the demo's character that is in no data set.
$(DEMO_UPLOAD): | setup
	$(PY) -m scripts.paint scenes --seed 1022 --character 0 --faces 1 --count 1 --out $(@D)

preprocess: setup ## drawings to a data set: CHARACTER=ganyu DATA=folder-or-zip (without DATA: from Kaggle)
	$(RUN) "stage=[$(BASE_FIRST)preprocess]" $(COMMON) $(SOURCE) $(BASE_ARGS) $(ARGS)

pretrain: setup ## a data set to a model on few cores, best from one that is there: CHARACTER=x NETWORK=stylegan2-starter [DATA=folder BASE=assets/starter]
	$(RUN) "stage=[$(BASE_FIRST)$(if $(DATA),preprocess$(comma))pretrain]" $(COMMON) $(if $(DATA),$(SOURCE)) $(BASE_ARGS) $(ARGS)

train: setup ## a data set to a model: CHARACTER=ganyu NETWORK=stylegan3-t [BASE=model/x] [PROCESSES=2, or gpu]
	$(SHARED) "stage=[$(BASE_FIRST)train]" $(COMMON) $(BASE_ARGS) $(ARGS)

finetune: setup ## a model to a new character with few images: CHARACTER=new DATA=folder BASE=model/x
	$(SHARED) "stage=[$(BASE_FIRST)$(if $(DATA),preprocess$(comma))finetune]" $(COMMON) $(SOURCE) $(BASE_ARGS) $(ARGS)

reader: setup ## the painter to a face reader (landmarks, expressions, head angles): CHARACTER=name
	$(RUN) stage=reader $(COMMON) $(ARGS)

read: setup ## landmarks, expression and head angles of the faces in a picture: IMAGE=drawing.png OUT=folder
	@test -n "$(IMAGE)" || { echo "Which picture? Add IMAGE=path/to/drawing.png, or a folder of them"; exit 2; }
	$(PY) -m scripts.read_faces "$(IMAGE)" --out "$(or $(OUT),readings)" $(ARGS)

emotion-presets: setup ## derive conf/emotion and conf/slider from the painter's statistics again: ARGS=--check
	$(PY) -m scripts.emotion_presets $(ARGS)

import: setup ## a network pickle of another program to a model: PKL=file NAME=x
	$(RUN) stage=import character=$(or $(NAME),$(CHARACTER)) $(if $(PKL),"import.pkl=$(PKL)") $(ARGS)

export: setup ## a model to a pickle for the official programs, and safetensors: MODEL=model/x OUT=dir
	$(PY) -m scripts.export $(or $(MODEL),model/$(CHARACTER)) "$(or $(OUT),exported)" $(ARGS)

encoder: setup ## a model's own encoder, so that invert takes 20 steps instead of 450: MODEL=model/x
	$(RUN) stage=encoder "character=$(MODEL_NAME)" $(if $(MODEL),"encoder.model=$(MODEL)") $(ARGS)

invert: setup ## find a picture in a model: CHARACTER=ganyu IMAGE=drawing.png
	@test -n "$(IMAGE)$(findstring invert.image=,$(ARGS))" || { \
	  echo "Which picture? Add IMAGE=path/to/drawing.png"; exit 2; }
	$(RUN) stage=invert $(COMMON) $(if $(IMAGE),"invert.image=$(IMAGE)") $(ARGS)

directions: setup ## learn how a model's latents change for a smile, an open eye, a turned head: MODEL=model/x
	$(RUN) stage=directions "character=$(MODEL_NAME)" $(if $(MODEL),"directions.model=$(MODEL)") $(ARGS)

# What IMAGE is found in: MODEL, else the character's own model, else the one that ships.
SHIPPED    := $(or $(wildcard assets/starter),assets/start-64)
EDIT_MODEL := $(or $(MODEL),$(if $(filter file,$(origin CHARACTER)),$(SHIPPED)))

edit: setup ## change a drawing: IMAGE=drawing.png EMOTION=smile, or POINTS="x,y>x,y; ..." or RECIPE=file.json [MODEL=x]; without IMAGE the last inverted one
	$(RUN) "stage=[$(if $(IMAGE),invert$(comma))edit]" $(COMMON) $(if $(POINTS),"edit.points=$(POINTS)") \
	  $(if $(RECIPE),"edit.recipe=$(RECIPE)") $(if $(EMOTION),"edit.emotion.name=$(EMOTION)") \
	  $(if $(STRENGTH),"edit.emotion.strength=$(STRENGTH)") $(if $(SLIDERS),"edit.emotion.sliders=$(SLIDERS)") \
	  $(if $(findstring seed_face=,$(ARGS)),,edit.points_frame=picture) $(if $(IMAGE),"invert.image=$(IMAGE)" \
	  $(if $(EDIT_MODEL),"invert.model=$(EDIT_MODEL)" "edit.model=$(EDIT_MODEL)")) $(ARGS)

emotions: setup ## one drawing in, a sheet of every expression out: IMAGE=drawing.png [MODEL=x]; without IMAGE of the last inverted one
	$(RUN) "stage=[$(if $(IMAGE),invert$(comma))emotions]" $(COMMON) $(if $(STRENGTH),"emotions.strength=$(STRENGTH)") \
	  $(if $(IMAGE),"invert.image=$(IMAGE)" $(if $(filter file,$(origin CHARACTER)),"emotions.title=$(basename $(notdir $(IMAGE)))") \
	  $(if $(EDIT_MODEL),"invert.model=$(EDIT_MODEL)" "emotions.model=$(EDIT_MODEL)")) $(ARGS)

animate: setup ## a drawing blinks, talks, nods or turns: IMAGE=drawing.png ANIMATION=blink (or a file.yaml) [MODEL=x]
	$(RUN) "stage=[$(if $(IMAGE),invert$(comma))animate]" $(COMMON) \
	  $(if $(filter %.yaml %.json,$(ANIMATION)),"animate.file=$(ANIMATION)",$(if $(ANIMATION),"animate.animation=$(ANIMATION)")) \
	  $(if $(IMAGE),"invert.image=$(IMAGE)" \
	  $(if $(EDIT_MODEL),"invert.model=$(EDIT_MODEL)" "animate.model=$(EDIT_MODEL)")) $(ARGS)

batch: setup ## one emotion or recipe for many: IMAGE=folder and/or SEEDS=0-9, EMOTION=smile or RECIPE=file.json [MODEL=x]
	$(RUN) "stage=[$(if $(IMAGE),invert$(comma))batch]" $(COMMON) $(if $(EMOTION),"batch.emotion.name=$(EMOTION)") \
	  $(if $(STRENGTH),"batch.emotion.strength=$(STRENGTH)") $(if $(SLIDERS),"batch.emotion.sliders=$(SLIDERS)") \
	  $(if $(RECIPE),"batch.recipe=$(RECIPE)") $(if $(SEEDS),"batch.seeds=$(SEEDS)") \
	  $(if $(IMAGE),"invert.image=$(IMAGE)" $(if $(EDIT_MODEL),"invert.model=$(EDIT_MODEL)"),batch.inversion=null) \
	  $(if $(EDIT_MODEL),"batch.model=$(EDIT_MODEL)") $(ARGS)

evaluate: setup ## a model's FID, KID, precision, recall, IS (PPL, EQ-T, EQ-R): MODEL=model/x
	$(SHARED) stage=evaluate "character=$(MODEL_NAME)" $(if $(MODEL),"evaluate.model=$(MODEL)") $(ARGS)

compare: setup ## evaluations side by side: MODELS="evaluation/a evaluation/b:v2" OUT=table.html
	$(PY) -m scripts.compare $(or $(MODELS),evaluation/$(CHARACTER)) $(if $(OUT),--out "$(OUT)") $(ARGS)

samples: setup ## what a model draws: grid, truncation, style mixing, walk, characters: MODEL=model/x
	$(RUN) stage=samples "character=$(MODEL_NAME)" $(if $(MODEL),"samples.model=$(MODEL)") $(ARGS)

report: setup ## one HTML page about all of it: CHARACTER=ganyu
	$(RUN) stage=report $(COMMON) $(ARGS)

# ---- keeping house -----------------------------------------------------------------------------

test: setup ## run the whole test suite (installs a Chromium for the tests of pages, where none is)
	@$(PY) -m scripts.install_browser
	$(PY) -m pytest -n auto --dist loadfile

lint: setup ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench: setup ## measure the program against the public formulation (a quarter of an hour on two quiet cores): OUT=folder ARGS="--only drag-stylegan2-512"
	$(PY) -m scripts.bench --out "$(or $(OUT),bench)" $(ARGS)

bench-invert: setup ## measure inversion on held-out painted faces: MODEL=model/x OUT=folder ARGS="--count 8 --methods w_avg,encoder"
	$(PY) -m scripts.bench_invert "$(or $(MODEL),model/$(CHARACTER))" --out "$(or $(OUT),bench-invert)" $(ARGS)

bench-drag: setup ## measure the ways of dragging on a model's faces: MODEL=model/x (or a folder)
	$(RUN) stage=drag_bench "character=$(MODEL_NAME)" $(if $(MODEL),"drag_bench.model=$(MODEL)") $(ARGS)

bench-emotions: setup ## measure the ways of reaching an emotion against painted truth: MODEL=model/x
	$(RUN) stage=emotion_bench "character=$(MODEL_NAME)" $(if $(MODEL),"emotion_bench.model=$(MODEL)") $(ARGS)

compare-emotions: setup ## these measurements of several models together: BENCHES="emotion_bench/a emotion_bench/b" OUT=page.html
	$(PY) -m scripts.compare_emotions $(or $(BENCHES),emotion_bench/$(CHARACTER)) $(if $(OUT),--out "$(OUT)") $(ARGS)

doctor: setup ## what this machine has, which operators run and why, what to do for more
	$(PY) -m scripts.doctor $(ARGS)

clean: ## remove caches, logs and the compiled operators (artifacts and .venv stay)
	rm -rf runs build .pytest_cache .ruff_cache .mypy_cache .hypothesis
