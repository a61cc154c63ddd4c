"""Record what other programs make of ggml's types and of GGUF's tokenizers, for the tests.

    python tools/record_gguf_goldens.py types     tests/data/ggml-types.json, and the grids of IQ1-3
    python tools/record_gguf_goldens.py splits    tests/data/tokenizer/gguf-pre.json

`types` needs the package gguf (0.19 or later), `splits` llama-cpp-python: pip install '.[llama]'.
Both write the same bytes again if nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from cpumix.checkpoint.encodings import ggml
from cpumix.checkpoint.encodings.ggml import GGML_TYPES
from cpumix.checkpoint.sources.gguf.pre_tokenizers import PRE_TOKENIZERS
from cpumix.checkpoint.sources.gguf.tokenizer import tokenizer_files
from cpumix.store import gguf as container
from cpumix.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
TYPES, SPLITS = DATA / "ggml-types.json", DATA / "tokenizer" / "gguf-pre.json"
GRIDS = Path(ggml.__file__).with_name("ggml_grids.npz")
ROWS = 256  # of 8 blocks each, as the test has them
VOCABULARY = 1100


def record_types() -> None:
    """Write the checksums of what `gguf.dequantize` makes of random blocks, and its grids."""
    import gguf
    from gguf import quants

    kinds = {"iq2_xxs": "IQ2_XXS", "iq2_xs": "IQ2_XS", "iq2_s": "IQ2_S"}
    kinds |= {"iq3_xxs": "IQ3_XXS", "iq3_s": "IQ3_S", "iq1": "IQ1_S"}
    grids = {}
    for name, kind in kinds.items():
        made = getattr(quants, kind)
        made.init_grid()
        grids[name] = made.grid.reshape(made.grid_shape).astype(np.int8)
    np.savez_compressed(GRIDS, **grids)

    goldens = {}
    for code, kind in GGML_TYPES.items():
        data = np.random.default_rng(code).bytes(ROWS * 8 * kind.nbytes)
        rows = np.frombuffer(data, np.uint8).reshape(ROWS, -1)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(rows, gguf.GGMLQuantizationType(code)).astype("<f4")
        values = np.where(np.isnan(values), np.float32(0), values).astype("<f4")
        goldens[kind.name] = {"code": code, "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
    TYPES.write_text(json.dumps(goldens, indent=1) + "\n")


def record_splits() -> None:
    """Write a vocabulary whose merges cross words, and checksums of the ids of each rule.

    Ids are llama.cpp's where ours are the same; the other rules are listed.
    """
    texts = json.loads((DATA / "tokenizer/goldens.json").read_text(encoding="utf-8"))["texts"]
    tokens, merges = _train(texts)
    checksums, others = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in PRE_TOKENIZERS:
            metadata = {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": name,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.merges": merges,
            }
            tokenizer = Tokenizer.from_files(tokenizer_files(metadata, name))
            ours = [tokenizer.encode(text, bos=False) for text in texts]
            theirs = _llama_cpp(Path(folder) / "vocabulary.gguf", metadata, texts)
            checksums[name] = crc32(" ".join(map(str, ours)).encode())
            if ours != theirs:
                others.append(name)
    golden = {"tokens": tokens, "merges": merges, "crc32": checksums, "not_as_llama_cpp": others}
    SPLITS.write_text(json.dumps(golden, ensure_ascii=False), encoding="utf-8")
    print(f"{len(checksums)} rules; other ids than llama.cpp's: {', '.join(others)}")


def _train(texts: list[str]) -> tuple[list[str], list[str]]:
    """Return tokens and merges of whole lines: how they are split decides which merges apply."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), merges


def _llama_cpp(path: Path, metadata: dict[str, Any], texts: list[str]) -> list[list[int]]:
    from llama_cpp import Llama

    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1}
    sizes |= {"feed_forward_length": 32, "attention.head_count": 1}
    whole: dict[str, Any] = {"general.architecture": "llama"}
    whole |= {f"llama.{key}": value for key, value in sizes.items()}
    whole |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, **metadata}
    whole |= {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0}
    path.write_bytes(container.encode_header(whole, []))
    model = Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]


if __name__ == "__main__":
    {"types": record_types, "splits": record_splits}[sys.argv[1]]()
