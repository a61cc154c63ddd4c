"""Record what transformers answers for the classifiers of tests/support/classifier_cases.py.

    python tools/record_classifiers.py

It needs torch and transformers (`pip install cpumix[oracle]`). The arithmetic is float32 on the
checkpoint's weights, with eager attention. A router's choice that hangs on a rounding error is
refused: give the case another seed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import torch
import transformers
from record_oracle import MIN_ROUTER_MARGIN, Router  # it puts tests/support on the path, too

import classifier_cases as cases  # isort: skip
import oracle_cases as oracle  # isort: skip


def padded(texts: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts (texts, longest) with padding on one side, and which tokens are theirs."""
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), cases.PAD)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        start = 0 if side == "right" else width - len(text)
        ids[i, start : start + len(text)] = torch.tensor(text)
        mask[i, start : start + len(text)] = 1
    return ids, mask


@torch.no_grad()
def record(case: cases.Case) -> None:
    """Write the golden file of one case."""
    texts = case.texts()
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            case.write(Path(folder)),
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()
    router = Router(model, getattr(model.config, "num_experts_per_tok", 1))
    alone = [padded([text], "right") for text in texts]
    logits = [torch.cat([model(ids, attention_mask=mask).logits for ids, mask in alone])]
    for side in cases.PADDINGS[1:]:
        ids, mask = padded(texts, side)
        logits.append(model(ids, attention_mask=mask).logits)
    if router.margin < MIN_ROUTER_MARGIN:
        raise click.ClickException(
            f"{case.name}: the narrowest choice of a router has a margin of {router.margin:.1e}, "
            f"below {MIN_ROUTER_MARGIN:.1e}. Give the case another seed."
        )
    hidden = [model.model(ids, attention_mask=mask).last_hidden_state[0] for ids, mask in alone]
    cases.Golden(
        tokens=np.concatenate([np.array(text, np.int32) for text in texts]),
        lengths=np.array([len(text) for text in texts], np.int32),
        logits=torch.stack(logits).numpy(),
        mean=torch.stack([states.mean(0) for states in hidden]).numpy(),
        last=torch.stack([states[-1] for states in hidden]).numpy(),
        weights=np.uint32(oracle.weights_crc(case.weights())),
        made_by=np.array(
            [f"transformers {transformers.__version__}", f"torch {torch.__version__}"]
        ),
    ).save(case.name)
    click.echo(f"{case.name:22} router margin {router.margin:.1e}")


@click.command()
def main() -> None:
    """Record what transformers answers for each classifier."""
    for case in cases.CASES:
        record(case)


if __name__ == "__main__":
    main()
