"""Record what transformers answers for the models of tests/support/oracle_cases.py; or compare.

    python tools/record_oracle.py                  write tests/data/oracle/*.npz
    python tools/record_oracle.py head-dim tied    only these cases
    python tools/record_oracle.py --check          compare transformers with cpumix, write nothing
    python tools/record_oracle.py --check --checkpoint DIR    the same for a model in a folder

It needs torch and transformers (`pip install cpumix[oracle]`). The arithmetic is float32 on the
checkpoint's weights, with eager attention. A model whose greedy choice or routing hangs on a
rounding error would make an unfair test, so recording refuses a case with a near tie: give it
another seed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import sentencepiece
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
import oracle_cases as oracle

transformers.utils.logging.disable_progress_bar()

# Float32 sums of two programs differ by about 1e-6 of their size; a choice closer than this to
# another is left to the order of summation.
MIN_GREEDY_MARGIN = 1e-3  # between the best two logits, over the RMS of all
MIN_ROUTER_MARGIN = 3e-5  # between the last expert chosen and the first not, over the RMS of all
PROMPT = "In the beginning God created the heaven and the earth. And the servants of David came to"


class Answer(NamedTuple):
    """What transformers said to a prompt, and how narrowly."""

    logits: np.ndarray  # (prompt, vocab) float32
    greedy: np.ndarray  # (greedy_tokens,) int32
    greedy_margin: float
    router_margin: float


class Router:
    """Watch a model's routers, and remember the narrowest choice made."""

    def __init__(self, model: torch.nn.Module, top_k: int) -> None:
        self.margin = float("inf")
        self.top_k = top_k
        for module in model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(self._look)

    def _look(self, _module: torch.nn.Module, _inputs: object, outputs: tuple) -> None:
        logits = outputs[0]
        ranked = logits.sort(dim=-1, descending=True).values
        if self.top_k < logits.shape[-1]:
            gaps = ranked[:, self.top_k - 1] - ranked[:, self.top_k]
            self.margin = min(self.margin, (gaps.min() / logits.square().mean().sqrt()).item())


@torch.no_grad()
def ask_transformers(folder: Path, prompt: np.ndarray, greedy_tokens: int) -> Answer:
    """Run a checkpoint in float32: all logits of the prompt, then greedy tokens with a cache."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",  # the others ask for sizes that are multiples of 4
    ).eval()
    router = Router(model, getattr(model.config, "num_experts_per_tok", 1))
    out = model(input_ids=torch.from_numpy(prompt.astype(np.int64))[None], use_cache=True)
    logits = out.logits[0]
    greedy, margin = [], float("inf")
    for _ in range(greedy_tokens):
        last = out.logits[0, -1]
        best, second = last.topk(2).values
        margin = min(margin, ((best - second) / last.square().mean().sqrt()).item())
        greedy.append(int(last.argmax()))
        out = model(
            input_ids=torch.tensor([greedy[-1:]]),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
    return Answer(logits.numpy(), np.array(greedy, np.int32), margin, router.margin)


def record(name: str, folder: Path, prompt: np.ndarray, crc: int, greedy_tokens: int) -> None:
    """Write the golden file of one model."""
    answer = ask_transformers(folder, prompt, greedy_tokens)
    click.echo(
        f"{name:22} router margin {answer.router_margin:.1e}  greedy margin "
        f"{answer.greedy_margin:.1e}  distinct tokens {len(set(answer.greedy.tolist()))}"
    )
    for kind, margin, least in (
        ("router", answer.router_margin, MIN_ROUTER_MARGIN),
        ("greedy", answer.greedy_margin, MIN_GREEDY_MARGIN),
    ):
        if margin < least:
            raise click.ClickException(
                f"{name}: the narrowest {kind} choice has a margin of {margin:.1e}, below "
                f"{least:.1e}. Give the case another seed or prompt."
            )
    rows = oracle.kept(len(prompt), oracle.MAX_ROWS)
    columns = oracle.kept(answer.logits.shape[1], oracle.MAX_COLUMNS)
    oracle.Golden(
        prompt=prompt,
        rows=rows,
        columns=columns,
        logits=answer.logits[np.ix_(rows, columns)],
        greedy=answer.greedy,
        weights=np.uint32(crc),
        made_by=np.array(
            [f"transformers {transformers.__version__}", f"torch {torch.__version__}"]
        ),
    ).save(name)


def check(name: str, folder: Path, prompt: np.ndarray, greedy_tokens: int) -> bool:
    """Compare cpumix with transformers on one model, print the result, return whether it holds."""
    answer = ask_transformers(folder, prompt, greedy_tokens)
    logits, greedy = oracle.ask_cpumix(folder, prompt, greedy_tokens)
    difference = np.square(logits - answer.logits, dtype=np.float64).mean()
    error = float(np.sqrt(difference / np.square(answer.logits, dtype=np.float64).mean()))
    same = int(np.cumprod(answer.greedy == greedy).sum())
    holds = error <= oracle.LOGITS_TOLERANCE and same == greedy_tokens
    click.echo(
        f"{name:22} logits differ by {error:.1e} (at most {oracle.LOGITS_TOLERANCE:.0e})  "
        f"greedy {same} of {greedy_tokens} equal  {'ok' if holds else 'FAILED'}"
    )
    return holds


@contextmanager
def written(case: oracle.Case) -> Iterator[Path]:
    """Write the checkpoint of a case to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield case.write(Path(folder))


@click.command()
@click.argument("names", nargs=-1, metavar="[CASE]...")
@click.option("--check", "checking", is_flag=True, help="Compare with cpumix; write nothing.")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A Hugging Face folder to use instead of the cases; its name is the case's.",
)
@click.option("--prompt", default=PROMPT, show_default=True, help="For --checkpoint.")
def main(names: tuple[str, ...], checking: bool, checkpoint: Path | None, prompt: str) -> None:
    """Record what transformers answers, or compare it with cpumix."""
    unknown = set(names) - {case.name for case in oracle.CASES}
    if unknown:
        raise click.ClickException(
            f"unknown case {', '.join(sorted(unknown))}; there are "
            f"{', '.join(case.name for case in oracle.CASES)}."
        )
    held = True
    if checkpoint is not None:
        tokenizer = sentencepiece.SentencePieceProcessor(str(checkpoint / "tokenizer.model"))
        ids = np.array([tokenizer.bos_id(), *tokenizer.encode(prompt)], dtype=np.int32)
        name = checkpoint.resolve().name
        if checking:
            held = check(name, checkpoint, ids, oracle.GREEDY_TOKENS)
        else:
            record(name, checkpoint, ids, oracle.shards_crc(checkpoint), oracle.GREEDY_TOKENS)
    for case in oracle.CASES if checkpoint is None else []:
        if not names or case.name in names:
            with written(case) as folder:
                prompt, greedy_tokens = case.prompt(), case.greedy_tokens
                if checking:
                    held &= check(case.name, folder, prompt, greedy_tokens)
                else:
                    crc = oracle.weights_crc(case.weights())
                    record(case.name, folder, prompt, crc, greedy_tokens)
    if not held:
        raise click.ClickException("cpumix differs from transformers.")


if __name__ == "__main__":
    main()
