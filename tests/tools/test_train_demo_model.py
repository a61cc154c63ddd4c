"""The parts of the demo model's training that need no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner
from train_demo_model import (
    PIECE_CHARACTERS,
    Stage,
    learning_rate,
    main,
    split_text,
    train_tokenizer,
)


def test_every_twentieth_piece_is_held_out() -> None:
    pieces = [f"{n:04}" * (PIECE_CHARACTERS // 4) for n in range(45)]
    learnt, held = split_text(["".join(pieces), "short"])
    assert held == pieces[7] + pieces[27]
    assert len(learnt) == 43 * PIECE_CHARACTERS + len("short")


def test_learning_rate_rises_then_falls_to_a_little() -> None:
    stage = Stage(1.0, 256, 1e-3)
    assert learning_rate(stage, 0, 0.0) == pytest.approx(1e-5)
    assert learning_rate(stage, 99, 0.0) == pytest.approx(1e-3)
    assert learning_rate(stage, 5000, 0.5) == pytest.approx(0.51e-3)
    assert learning_rate(stage, 9999, 1.0) == pytest.approx(2e-5)


def test_tokenizer_spells_any_text_and_keeps_spaces(tmp_path: Path) -> None:
    text = tmp_path / "train.txt"
    text.write_text("And the earth was without form, and void.\nAnd God said, 42 times.\n" * 50)
    train_tokenizer(text, tmp_path, 330)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.model", "train.txt"]
    tokenizer = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    hard = "  And\n\tthe  \U0001f642 427"
    assert tokenizer.decode(tokenizer.encode(hard)) == hard
    assert len(tokenizer.encode("427")) >= 3  # digits stay single
    assert tokenizer.vocab_size() == 330


def test_training_without_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "training needs torch: pip install torch transformers sentencepiece" in result.output


def test_too_little_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setitem(sys.modules, "transformers", sys)
    (tmp_path / "a.txt").write_text("short")
    result = CliRunner().invoke(main, [str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "too little text: 5 characters in 1 *.txt files of " in result.output
