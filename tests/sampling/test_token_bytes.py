"""What tokens print, and the tokens that print a text: what DRY and grammars need to know."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import slow

from cpumix.errors import ConfigError
from cpumix.sampling import SamplingParams, dry
from cpumix.sampling.candidates import Candidates
from cpumix.sampling.history import History
from cpumix.sampling.state import SequenceState
from cpumix.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data" / "tokenizer"
NAMES = ["mixtral.model", "small.model", "small.json", "byte-level.json"]


def load(name: str, **config: object) -> Tokenizer:
    files = {"tokenizer." + name.split(".")[1]: (DATA / name).read_bytes()}
    return Tokenizer.from_files(files | {"tokenizer_config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("name", NAMES)
def test_tokens_print_what_the_stream_prints(name):
    tokenizer = load(name)
    for text in ("The quick brown fox", "naïve café ☕ 🌍", "{\n  'a': [1, 2]\n}"):
        ids = tokenizer.encode(text, bos=False)
        printed = b"".join(tokenizer.token_bytes[token] for token in ids)
        assert printed.decode().removeprefix(" ") == text


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_print_nothing(name):
    tokenizer = load(name)
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size
    assert tokenizer.token_bytes[tokenizer.bos_id or 0] in (b"", b"!")  # byte-level.json: no BOS


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_encode_inside_prints_exactly_the_text(name, legacy):
    tokenizer, draw = load(name, legacy=legacy), random.Random(2)
    alphabet = 'ab "{}[]:,\n\t0123é🌍<s>'
    for _ in range(200):
        text = "".join(draw.choices(alphabet, k=draw.randrange(1, 12))).encode()
        part = text[draw.randrange(2) : len(text) - draw.randrange(2)]  # or half a character
        ids = tokenizer.encode_inside(part)
        assert b"".join(tokenizer.token_bytes[token] for token in ids) == part
        assert all(tokenizer.token_bytes[token] for token in ids)


def test_encode_inside_takes_the_tokens_that_the_model_knows():
    tokenizer = load("mixtral.model")
    ids = tokenizer.encode("Good morning", bos=False)
    assert tokenizer.encode_inside(b" Good morning") == ids
    assert tokenizer.encode_inside(b" morning") == ids[1:]


def test_a_byte_without_a_token_is_named():
    tokenizer = load("small.model")
    printed = [b""] * tokenizer.vocab_size
    printed[1:3] = [b"a", b"bc"]
    tokenizer.__dict__["token_bytes"] = tuple(printed)
    assert tokenizer.encode_inside(b"abc") == [1, 2]
    message = "^tokenizer: expected tokens for every byte, found none for 0xC3"
    with pytest.raises(ConfigError, match=message):
        tokenizer.encode_inside("aé".encode())


def test_breakers_are_the_tokens_that_hold_them():
    tokenizer = load("mixtral.model")
    found = dry.find_breakers(("\n", ":"), tokenizer)
    held = {t for t, printed in enumerate(tokenizer.token_bytes) if b":" in printed}
    held |= {t for t, printed in enumerate(tokenizer.token_bytes) if b"\n" in printed}
    assert set(found) == held
    assert all(tails == {()} for tails in found.values())


def test_a_breaker_of_several_tokens_has_heads_and_tails():
    tokenizer = load("mixtral.model")
    found = dry.find_breakers(("ab:",), tokenizer)
    colon, b_colon = tokenizer.encode_inside(b":"), tokenizer.encode_inside(b"b:")
    (a,), (ab,) = tokenizer.encode_inside(b"a"), tokenizer.encode_inside(b"ab")
    assert tuple(b_colon) in found[a]
    assert tuple(colon) in found[ab]
    text = np.array([5, 5, ab, *colon, 6, 7])
    assert dry.unbroken(text, found) == 2
    assert dry.unbroken(text[:-3], found) == 3  # the breaker is not complete


@pytest.mark.parametrize("seed", range(20))
def test_repetitions_end_at_breakers(seed):
    draw = np.random.default_rng(seed)
    tokenizer = load("mixtral.model")
    words = [tokenizer.encode_inside(w)[0] for w in (b" one", b" two", b":", b" three")]
    text = draw.choice(words, 60, p=[0.5, 0.3, 0.05, 0.15]).tolist()
    params = SamplingParams(dry_multiplier=0.8, dry_penalty_last_n=50)
    candidates = Candidates(np.zeros(tokenizer.vocab_size, np.float32))
    narrow = dry.create(params, SequenceState(History(text), draw, tokenizer))
    narrow(candidates)
    logits = candidates.adjust()
    expected = slow.dry(dict.fromkeys(words, 0.0), text, 50, 0.8, 1.75, 2, breakers=[words[2]])
    assert [logits[w] for w in words] == pytest.approx([expected[w] for w in words], rel=1e-5)
    assert np.count_nonzero(logits) <= 3
