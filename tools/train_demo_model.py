"""Train a small Mixtral on the texts of a folder, as the demo model was trained.

    python tools/build_corpus.py corpus
    python tools/train_demo_model.py corpus model
    cpumix convert model demo.bin --precision int8

The demo has 22.2 M parameters: 6 layers, 8 experts of which 2 are active, grouped-query attention,
and a SentencePiece BPE tokenizer of 4096 pieces with byte fallback. It saw 1.65 M tokens of public-
domain English in two stages, first 40 minutes in windows of 256 tokens, then 38 in windows of 1024,
on two CPU cores. Every twentieth 4 KiB of the text is held out, in heldout.txt, to measure it by.

Stopped at any moment, the same command goes on where it was, from the last save. The model card
written with the weights gives them to the public domain (CC0), so train it on such text only.
Needs `pip install torch transformers sentencepiece`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import sentencepiece

if TYPE_CHECKING:
    import torch

PIECE_CHARACTERS = 4096  # the unit in which text is held out
HELD_OUT_EVERY, HELD_OUT_FIRST = 20, 7
BATCH_TOKENS = 4096
SAVE_EVERY = 100  # steps; a save costs about as much as one step
EVALUATED_BATCHES = 6
WARMUP_STEPS = 100
FINAL_RATE = 0.02  # of the peak

SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "output_router_logits": True,  # brings the loss that keeps all experts in use
    "router_aux_loss_coef": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": True,
    "clean_up_tokenization_spaces": False,
    "model_max_length": SHAPE["max_position_embeddings"],
}
MODEL_CARD = """\
---
license: cc0-1.0
---
A small Mixtral trained on public-domain English: {files}.
Held-out perplexity {perplexity:.2f} (heldout.txt, windows of {window} tokens).
Weights and tokenizer are in the public domain (CC0 1.0).
"""


class Stage(NamedTuple):
    """A part of the training: how much of the time, at which window and peak learning rate."""

    share: float
    window: int
    rate: float


STAGES = (Stage(0.51, 256, 1.5e-3), Stage(0.49, 1024, 1e-3))


def split_text(texts: Iterable[str]) -> tuple[str, str]:
    """Cut texts into pieces and return (learnt from, held out)."""
    parts: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        for number, start in enumerate(range(0, len(text), PIECE_CHARACTERS)):
            held = number % HELD_OUT_EVERY == HELD_OUT_FIRST
            parts[held].append(text[start : start + PIECE_CHARACTERS])
    return "".join(parts[0]), "".join(parts[1])


def train_tokenizer(text: Path, out: Path, vocab_size: int) -> None:
    """Train a SentencePiece BPE model as Mistral's: byte fallback, dummy prefix, single digits."""
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(out / "tokenizer"),
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        max_sentence_length=16384,
        minloglevel=1,
    )
    (out / "tokenizer.vocab").unlink()


def learning_rate(stage: Stage, step: int, done: float) -> float:
    """Return the rate of a step when a part `done` of the stage is over: a rise, then a cosine."""
    fall = 0.5 * (1 + math.cos(math.pi * done))
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    return stage.rate * rise * (FINAL_RATE + (1 - FINAL_RATE) * fall)


class Trainer:
    """The model, its optimizer, and the texts as ids; knows how to step, measure and save."""

    def __init__(self, out: Path, train: np.ndarray, held: np.ndarray) -> None:
        import torch
        import transformers

        self.out, self.train, self.held = out, train, held
        self.torch = torch
        torch.manual_seed(0)
        self.config = transformers.MixtralConfig(**SHAPE)
        self.model = transformers.MixtralForCausalLM(self.config).train()
        self.optimizer = self._new_optimizer()
        self.rng = np.random.default_rng(0)
        self.stage = self.step = 0
        self.seconds = 0.0  # spent on the steps of this stage
        if self._state_path.exists():
            self._resume()

    @property
    def _state_path(self) -> Path:
        return self.out / "training.pt"

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return self.torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)

    def _resume(self) -> None:
        state = self.torch.load(self._state_path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        click.echo(f"going on from stage {self.stage + 1}, step {self.step}")

    def save_state(self) -> None:
        """Write all that going on needs, by a rename, so that a kill leaves the last save whole."""
        partial = self._state_path.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
        }
        self.torch.save(state, partial)
        partial.replace(self._state_path)

    def next_stage(self) -> None:
        """Begin the next stage with a fresh optimizer."""
        self.stage, self.step, self.seconds = self.stage + 1, 0, 0.0
        self.optimizer = self._new_optimizer()

    def _windows(self, ids: np.ndarray, window: int, rng: np.random.Generator) -> torch.Tensor:
        starts = rng.integers(0, len(ids) - window - 1, max(1, BATCH_TOKENS // window))
        rows = np.stack([ids[start : start + window] for start in starts])
        return self.torch.from_numpy(rows.astype(np.int64))

    def learn(self, window: int, rate: float) -> float:
        """Take one step on a batch of random windows; return its loss."""
        began = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ids = self._windows(self.train, window, self.rng)
        with self.torch.autocast("cpu", self.torch.bfloat16):
            loss = self.model(input_ids=ids, labels=ids).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.monotonic() - began
        return loss.item()

    def perplexity(self, window: int) -> float:
        """Measure the model on some windows of the held-out text, always the same."""
        rng = np.random.default_rng(1)
        total = 0.0
        self.model.eval()
        with self.torch.no_grad(), self.torch.autocast("cpu", self.torch.bfloat16):
            for _ in range(EVALUATED_BATCHES):
                ids = self._windows(self.held, window, rng)
                logits = self.model(input_ids=ids, output_router_logits=False).logits.float()
                total += self.torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
                ).item()
        self.model.train()
        return math.exp(total / EVALUATED_BATCHES)

    def export(self) -> None:
        """Write the weights as a Hugging Face checkpoint in bfloat16."""
        self.model.to(self.torch.bfloat16).save_pretrained(self.out, max_shard_size="20MB")


def train_stages(trainer: Trainer, minutes: float) -> None:
    """Run what is left of all stages, saving and reporting on the way."""
    while trainer.stage < len(STAGES):
        stage = STAGES[trainer.stage]
        limit = stage.share * minutes * 60
        while trainer.seconds < limit:
            rate = learning_rate(stage, trainer.step, trainer.seconds / limit)
            loss = trainer.learn(stage.window, rate)
            if trainer.step % SAVE_EVERY == 0:
                trainer.save_state()
                click.echo(
                    f"stage {trainer.stage + 1} of {len(STAGES)}  step {trainer.step}  "
                    f"loss {loss:.3f}  held-out perplexity "
                    f"{trainer.perplexity(stage.window):.1f}  "
                    f"{max(0.0, limit - trainer.seconds) / 60:.0f} min left of the stage"
                )
        trainer.next_stage()
        trainer.save_state()


@click.command()
@click.argument("corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--minutes", type=click.FloatRange(min=0), default=78, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of torch.  [default: its own choice]")
def main(corpus: Path, out: Path, minutes: float, threads: int | None) -> None:
    """Train a small Mixtral on CORPUS/*.txt and write a Hugging Face checkpoint to OUT."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as e:
        raise click.ClickException(
            f"training needs {e.name}: pip install torch transformers sentencepiece"
        ) from e
    files = sorted(corpus.glob("*.txt"))
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    learnt, held = split_text(texts)
    window = max(stage.window for stage in STAGES)
    if len(held) < PIECE_CHARACTERS:
        raise click.ClickException(
            f"too little text: {sum(map(len, texts)):,} characters in {len(files)} *.txt files of "
            f"{corpus}, at least {(HELD_OUT_FIRST + 1) * PIECE_CHARACTERS:,} in one are needed."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.txt").write_text(learnt, encoding="utf-8")
    (out / "heldout.txt").write_text(held, encoding="utf-8")
    if not (out / "tokenizer.model").exists():
        train_tokenizer(out / "train.txt", out, SHAPE["vocab_size"])
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    ids = [np.array(tokenizer.encode(text), dtype=np.int32) for text in (learnt, held)]
    click.echo(f"{len(ids[0]):,} tokens to learn from, {len(ids[1]):,} held out")
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(out, *ids)
    train_stages(trainer, minutes)
    perplexity = trainer.perplexity(window)
    trainer.export()
    (out / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    card = MODEL_CARD.format(
        files=", ".join(file.name for file in files), perplexity=perplexity, window=window
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    click.echo(f"held-out perplexity {perplexity:.2f}; checkpoint in {out}")


if __name__ == "__main__":
    main()
