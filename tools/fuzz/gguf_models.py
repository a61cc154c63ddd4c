"""Puts wrong values into the metadata of GGUF models, and expects a sentence or a sound model.

    python tools/fuzz/gguf_models.py --cases 100000 [--seed 1]

A case is a valid tiny model with up to four values replaced, drawn from its number: a failure is
repeated with --seed NUMBER --cases 1. What opens must have a tokenizer that encodes. Damage of the
bytes themselves is in containers.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cpumix.checkpoint import open_checkpoint
from cpumix.errors import CpumixError
from cpumix.store import gguf
from cpumix.tokenizer import Tokenizer

SECONDS = 5.0
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab"]
N = len(TOKENS)
SIZES = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 8,
    "feed_forward_length": 8,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 1e4,
}
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": -np.arange(N, dtype=np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 3, np.int32),
}
BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": [*map(chr, range(33, 127)), *(f"x{n}" for n in range(N - 95)), "ab"],
    "tokenizer.ggml.merges": ["a b"],
}
OTHERS = """
    general.type general.alignment split.count split.no split.tensors.count llama.expert_count
    llama.expert_used_count llama.attention.key_length llama.attention.value_length
    llama.attention.sliding_window llama.rope.dimension_count llama.rope.scaling.type
    llama.rope.scaling.factor llama.rope.scaling.original_context_length llama.logit_scale
    tokenizer.huggingface.json tokenizer.chat_template tokenizer.chat_template.x
    tokenizer.ggml.add_bos_token tokenizer.ggml.add_space_prefix tokenizer.ggml.eot_token_id
    tokenizer.ggml.bos_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.pre
    tokenizer.ggml.remove_extra_whitespaces general.sampling.temp general.sampling.top_k
""".split()
VALUES: list[Any] = [
    *(0, 1, 2, -1, 3, 2**31 - 1, 2**31, 2**32 - 1, 2**40, True, False),
    *(0.0, 1.5, -1.0, 1e38, float("nan"), float("inf")),
    *("", "llama", "yarn", "linear", "imatrix", "x" * 200, "\n\0\u00e9", "{{ x", "{}"),
    *([], ["a"], ["a", "a"], [""] * N, [f"{n}\ufdd0" for n in range(N)], ["a b c"]),
    *(np.zeros(0, np.float32), np.array([1, 2], np.int32), np.array([2, 2], np.int32)),
    *(np.full(N, code, np.int32) for code in (-5, 0, 2, 3, 4, 5, 6, 7)),
    *(np.zeros(N, np.float32), np.full(N, np.nan, np.float32), b"\0\1"),
]


def shapes(experts: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model by name."""
    layer = {"attn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8)}
    layer |= {"attn_output": (8, 8), "ffn_norm": (8,)}
    stack = (experts,) if experts else ()
    end = "_exps" if experts else ""
    layer |= {f"ffn_{name}{end}": (*stack, 8, 8) for name in ("gate", "up", "down")}
    if experts:
        layer["ffn_gate_inp"] = (experts, 8)
    named = {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    return {"token_embd.weight": (N, 8), "output_norm.weight": (8,), **named}


def model(number: int) -> bytes:
    """Return the file of a case."""
    random = np.random.default_rng(number)
    experts = int(random.choice([0, 2]))
    metadata: dict[str, Any] = {"general.architecture": "llama"}
    metadata |= {f"llama.{key}": value for key, value in SIZES.items()}
    if experts:
        metadata |= {"llama.expert_count": experts, "llama.expert_used_count": 1}
    metadata |= SENTENCEPIECE if random.random() < 0.6 else BYTE_LEVEL
    tensors = shapes(experts)
    if random.random() < 0.2:
        tensors["rope_freqs.weight"] = (2,)
    for _ in range(int(random.integers(0, 5))):
        key = str(random.choice([*metadata, *OTHERS]))
        metadata[key] = VALUES[int(random.integers(len(VALUES)))]
    if random.random() < 0.2:
        del metadata[str(random.choice(list(metadata)))]
    places, offset = [], 0
    for name, shape in tensors.items():
        places.append(gguf.TensorInfo(name, shape, 0, offset))
        offset = gguf.align(offset + 4 * int(np.prod(shape)), gguf.DEFAULT_ALIGNMENT)
    header = gguf.encode_header(metadata, places)
    data = random.standard_normal(offset // 4).astype("<f4").tobytes()
    return header.ljust(gguf.align(len(header), gguf.DEFAULT_ALIGNMENT), b"\0") + data


def run(cases: int, seed: int, folder: Path) -> int:
    """Try cases from `seed` on; return how many opened. AssertionError names one that failed."""
    path, opened = folder / "model.gguf", 0
    for number in range(seed, seed + cases):
        path.write_bytes(model(number))
        began = time.thread_time()
        try:
            checkpoint = open_checkpoint(path)
            for spec in checkpoint.config.tensors():
                rows = checkpoint.tensors[spec.name].read_rows(0, spec.shape[0])
                assert rows.shape == spec.shape, (number, spec.name)
            Tokenizer.from_files(checkpoint.files).encode("abc <|x|> \u00e9")
            opened += 1
        except CpumixError:
            pass
        except Exception as e:
            raise AssertionError(f"case {number}: {type(e).__name__}: {e}") from e
        took = time.thread_time() - began
        assert took < SECONDS, f"case {number} took {took:.1f} seconds of the processor"
    return opened


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opened = run(options.cases, options.seed, Path(folder))
    print(f"{options.cases} cases from {options.seed} on, {opened} opened", file=sys.stderr)


if __name__ == "__main__":
    main()
