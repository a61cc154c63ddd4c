PYTHON ?= python3
BIN := .venv/bin
# Tests on all processors, up to eight; a worker that has nothing left to do takes half of another's.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal
.PHONY: setup demo demo-chat test quick test-nojit lint check oracle clients bench clean

# Make .venv with cpumix and its development tools; again only when pyproject.toml changes.
setup: .venv/installed
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
# See it work: the model that ships in the package continues a sentence.
demo: setup
	$(BIN)/cpumix run --prompt "And they returned to the city" -n 96 --stats
# Hold a conversation with a real instruct model.
demo-chat: .venv/smollm2.bin
	$(BIN)/cpumix chat .venv/smollm2.bin --on-full slide
# A real instruct model of 135 million parameters: fetched (93 MB), converted, ready to run.
.venv/smollm2.bin: .venv/installed
	$(BIN)/python tools/fetch_chat_model.py .venv/smollm2.gguf
	$(BIN)/cpumix convert .venv/smollm2.gguf $@ --precision bf16 --force
# Run every test; warnings are errors.
test: setup
	$(PYTEST)
# Run the tests that take no time, while working: all but those marked slow.
quick: setup
	$(PYTEST) -m "not slow"
# Run the portable kernels as plain Python: they must mean the same without the compiler.
test-nojit: setup
	NUMBA_DISABLE_JIT=1 CPUMIX_ISA=generic $(BIN)/python -m pytest tests/kernels/test_*.py
# See what is wrong without running anything: lint, format, types, house style.
lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/check_style.py
# Before a commit.
check: lint test
# Compare logits and greedy text live with transformers; installs torch, about 1 GB.
oracle: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[oracle]'
	$(BIN)/python tools/record_oracle.py --check
# Ask `cpumix serve` with other people's programs, each in its newest version; npm only if it is there.
clients: setup
	$(PYTHON) -m venv .venv/clients
	.venv/clients/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -r tests/serve/clients/requirements.txt
	if command -v npm; then npm install --silent --no-save --prefix .venv/clients openai@latest; fi
	CPUMIX_CLIENTS=.venv/clients $(BIN)/python -m pytest tests/serve/test_clients.py -ra
# Measure decode and prefill on this machine.
bench: setup
	$(BIN)/cpumix bench
# Forget the environment and every cache in this folder.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
