"""Write a Hugging Face checkpoint with random weights, of any size, at the speed of the disk.

It is for measuring: loading, conversion and kernels cost the same whether or not the weights mean
anything. The default is two layers at the full width of Mixtral 8x7B in bfloat16 (6.3 GB, four
shards), the largest slice of the real model that is still convenient on a small machine:

    python tools/make_checkpoint.py --out full2

The same options, seed and NumPy give the same bytes. Weights are Gaussian, norms are one.
They are cut at random places from one block of 16 Mi numbers, half of the cuts negated, so writing
takes no longer than the copy. The tokenizer is copied from `--tokenizer FILE`, or made up: bytes,
letters, and words of letters, enough of them to fill the vocabulary.
"""

from __future__ import annotations

import itertools
import json
import shutil
import string
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

POOL_SIZE = 1 << 24  # numbers drawn; every tensor is made of pieces of these
SHARD_BYTES = 2_000_000_000
BYTES_PER_WEIGHT = 2  # bfloat16
SIGN_BIT = np.uint16(0x8000)


class Tensor(NamedTuple):
    """A tensor to be written: its name in the checkpoint, and its shape (1-D is a norm)."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Return the size in a shard, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * BYTES_PER_WEIGHT


def build_config(options: dict[str, Any]) -> dict[str, Any]:
    """Translate the command's options to the fields of config.json."""
    heads = options["heads"]
    if options["hidden"] % heads and options["head_dim"] is None:
        raise click.ClickException(
            f"--hidden {options['hidden']} is not a multiple of --heads {heads}: give --head-dim."
        )
    if heads % options["kv_heads"]:
        raise click.ClickException(
            f"--heads {heads} is not a multiple of --kv-heads {options['kv_heads']}."
        )
    chosen = options["experts_per_token"] or min(2, options["experts"])
    if chosen > options["experts"]:
        raise click.ClickException(
            f"--experts-per-token {chosen} is more than --experts {options['experts']}."
        )
    is_moe = options["experts"] > 1
    config = {
        "architectures": ["MixtralForCausalLM" if is_moe else "MistralForCausalLM"],
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "head_dim": options["head_dim"] or options["hidden"] // heads,
        "hidden_act": "silu",
        "hidden_size": options["hidden"],
        "intermediate_size": options["intermediate"],
        "max_position_embeddings": options["positions"],
        "model_type": "mixtral" if is_moe else "mistral",
        "num_attention_heads": heads,
        "num_hidden_layers": options["layers"],
        "num_key_value_heads": options["kv_heads"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": options["vocab"],
    }
    if is_moe:
        config["num_experts_per_tok"] = chosen
        config["num_local_experts"] = options["experts"]
    return config


def list_tensors(config: dict[str, Any], fused: bool) -> list[Tensor]:
    """List the tensors of a checkpoint in file order, with v4 names or (fused) v5 names."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    experts = config.get("num_local_experts", 1)
    q_size = config["num_attention_heads"] * config["head_dim"]
    kv_size = config["num_key_value_heads"] * config["head_dim"]
    tensors = [Tensor("model.embed_tokens.weight", (config["vocab_size"], hidden))]
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (q_size, hidden),
            "self_attn.k_proj.weight": (kv_size, hidden),
            "self_attn.v_proj.weight": (kv_size, hidden),
            "self_attn.o_proj.weight": (hidden, q_size),
            "post_attention_layernorm.weight": (hidden,),
        }
        if experts == 1:
            block["mlp.gate_proj.weight"] = block["mlp.up_proj.weight"] = (inner, hidden)
            block["mlp.down_proj.weight"] = (hidden, inner)
        elif fused:
            block["mlp.gate.weight"] = (experts, hidden)
            block["mlp.experts.gate_up_proj"] = (experts, 2 * inner, hidden)
            block["mlp.experts.down_proj"] = (experts, hidden, inner)
        else:
            block["block_sparse_moe.gate.weight"] = (experts, hidden)
            for expert in range(experts):
                prefix = f"block_sparse_moe.experts.{expert}"
                block[f"{prefix}.w1.weight"] = block[f"{prefix}.w3.weight"] = (inner, hidden)
                block[f"{prefix}.w2.weight"] = (hidden, inner)
        tensors += [Tensor(f"model.layers.{layer}.{name}", shape) for name, shape in block.items()]
    tensors.append(Tensor("model.norm.weight", (hidden,)))
    tensors.append(Tensor("lm_head.weight", (config["vocab_size"], hidden)))
    return tensors


def split_shards(tensors: list[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Group the tensors, in order, into shards of at most `shard_bytes` (or one tensor)."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 values (finite) to bfloat16, returned as uint16 bits; ties go to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def random_pieces(tensor: Tensor, pool: np.ndarray, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield the bytes of a tensor: ones for a norm, else random cuts of the pool."""
    count = tensor.nbytes // BYTES_PER_WEIGHT
    if len(tensor.shape) == 1:
        yield to_bf16(np.ones(count)).tobytes()
        return
    while count:
        start, negate = (int(n) for n in rng.integers(0, (len(pool), 2)))
        piece = pool[start : start + count]
        yield (piece ^ SIGN_BIT if negate else piece).tobytes()
        count -= len(piece)


def write_shard(
    path: Path, tensors: list[Tensor], pool: np.ndarray, rng: np.random.Generator
) -> None:
    """Write one safetensors file: u64 header length, JSON header, then the data in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.writelines(random_pieces(tensor, pool, rng))


def synthetic_tokenizer(vocab: int) -> bytes:
    """Return a SentencePiece BPE model of `vocab` pieces, with byte fallback and dummy prefix.

    It is the protobuf written by hand (sentencepiece_model.proto): training one would need text.
    Every piece longer than one character is the merge of two others, so all of them are reachable.
    """
    normal, unknown, control, byte = 1, 2, 3, 6  # SentencePiece.Type
    pieces = [("<unk>", unknown), ("<s>", control), ("</s>", control)]
    pieces += [(f"<0x{value:02X}>", byte) for value in range(256)]
    singles = ["\u2581", *string.ascii_lowercase, *string.ascii_uppercase, *string.digits]
    singles += string.punctuation
    words = (
        start + "".join(letters)
        for size in itertools.count(1)
        for letters in itertools.product(string.ascii_lowercase, repeat=size)
        for start in (("\u2581",) if size == 1 else ("\u2581", ""))
    )
    texts = itertools.chain(singles, words)
    pieces += [(next(texts), normal) for _ in range(vocab - len(pieces))]

    def varint(value: int) -> bytes:
        """Encode a number, seven bits a byte, low bits first, the last byte below 128."""
        low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
        return low + varint(value >> 7) if value > 0x7F else low

    def field(number: int, value: bytes | int) -> bytes:
        """Encode one field: a number, or a length and bytes."""
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    model = b""
    for rank, (text, kind) in enumerate(pieces):
        score = b"\x15" + struct.pack("<f", -float(rank) if kind == normal else 0.0)
        model += field(1, field(1, text.encode()) + score + field(3, kind))
    trainer = field(3, 2) + field(4, vocab) + field(35, 1)  # model_type BPE, byte_fallback
    trainer += field(40, 0) + field(41, 1) + field(42, 2)  # ids of <unk>, <s>, </s>
    normalizer = field(1, b"identity") + field(3, 1) + field(4, 0)  # dummy prefix, keep spaces
    return model + field(2, trainer) + field(3, normalizer)


def write_side_files(folder: Path, config: dict[str, Any], tokenizer: Path | None) -> None:
    """Write config.json, generation_config.json and the tokenizer's two files."""

    def write_json(name: str, content: dict[str, Any]) -> None:
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    write_json("config.json", config)
    write_json("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(
        "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    )
    model = tokenizer.read_bytes() if tokenizer else synthetic_tokenizer(config["vocab_size"])
    (folder / "tokenizer.model").write_bytes(model)


COUNT = click.IntRange(min=1)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--layers", type=COUNT, default=2, show_default=True)
@click.option("--hidden", type=COUNT, default=4096, show_default=True)
@click.option("--intermediate", type=COUNT, default=14336, show_default=True)
@click.option("--heads", type=COUNT, default=32, show_default=True)
@click.option("--kv-heads", type=COUNT, default=8, show_default=True)
@click.option("--head-dim", type=COUNT, help="Size of a head.  [default: hidden / heads]")
@click.option("--experts", type=COUNT, default=8, show_default=True, help="1 is a dense model.")
@click.option("--experts-per-token", type=COUNT, help="Active experts.  [default: 2, or 1 of 1]")
@click.option("--vocab", type=click.IntRange(min=512), default=32000, show_default=True)
@click.option("--positions", type=COUNT, default=32768, show_default=True, help="Longest context.")
@click.option("--std", type=float, default=0.02, show_default=True, help="Of the weights.")
@click.option("--fused", is_flag=True, help="Name experts as transformers v5 does.")
@click.option("--shard-bytes", type=COUNT, default=SHARD_BYTES, show_default=True)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A tokenizer.model to copy.  [default: made up]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--force", is_flag=True, help="Write into a folder that is not empty.")
def main(
    out: Path, fused: bool, shard_bytes: int, tokenizer: Path | None, force: bool, **options: Any
) -> None:
    """Write a Hugging Face checkpoint with random weights."""
    config = build_config(options)
    tensors = list_tensors(config, fused)
    total = sum(tensor.nbytes for tensor in tensors)
    if out.exists() and not out.is_dir():
        raise click.ClickException(f"--out is a file, not a folder: {out}")
    if out.exists() and any(out.iterdir()) and not force:
        raise click.ClickException(f"--out is not empty; use --force to write there: {out}")
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < total:
        raise click.ClickException(
            f"the checkpoint needs {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: {out}"
        )
    rng = np.random.Generator(np.random.PCG64(options["seed"]))
    pool = to_bf16(rng.standard_normal(POOL_SIZE, dtype=np.float32) * np.float32(options["std"]))
    shards = split_shards(tensors, shard_bytes)
    index: dict[str, str] = {}
    with click.progressbar(length=total, label=f"{total / 1e9:.1f} GB") as bar:
        for number, shard in enumerate(shards, 1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            write_shard(out / name, shard, pool, rng)
            index |= {tensor.name: name for tensor in shard}
            bar.update(sum(tensor.nbytes for tensor in shard))
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2) + "\n",
        encoding="utf-8",
    )
    write_side_files(out, config, tokenizer)


if __name__ == "__main__":
    main()
