"""Structured output: what comes out is what was asked for, from a model that says anything."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from random_schemas import make_schema

from cpumix.errors import ConfigError
from cpumix.sampling import Sampler, SamplingParams
from cpumix.sampling.closing import closes, find_closing
from cpumix.sampling.grammar import Matcher
from cpumix.sampling.params import Grammar
from cpumix.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data" / "tokenizer"
ROWS = np.random.default_rng(0).normal(0, 4, (97, 32000)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_files({"tokenizer.model": (DATA / "mixtral.model").read_bytes()})


def write(tokenizer, seed=0, max_tokens=200, forced=True, **params):
    """Let a model that says anything write; return the text, the sampler and the draws it took."""
    ends = tokenizer.eos_ids
    sampler = Sampler(
        SamplingParams(temperature=1, top_k=50, top_p=1, min_p=0, seed=seed, **params),
        tokenizer=tokenizer,
        ends=ends,
        max_tokens=max_tokens,
    )
    max_tokens = max_tokens or 10**9
    tokens: list[int] = []
    draws = 0
    while len(tokens) < max_tokens and not sampler.finished:
        token = sampler(ROWS[(seed * 7 + draws) % len(ROWS)])
        draws += 1
        if token in ends:
            break
        tokens.append(token)
        if forced:
            tokens += sampler.forced()
    assert len(tokens) <= max_tokens
    text = b"".join(tokenizer.token_bytes[token] for token in tokens)
    return text.decode(), sampler, draws


def validate(text: str, schema: dict) -> None:
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 25)) for seed in range(200)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_random_schemas_give_output_that_validates(tokenizer, seed):
    """Also where few tokens are left: from the fewest that will do to plenty."""
    draw = random.Random(seed)
    schema = make_schema(draw)
    text, sampler, _ = write(tokenizer, seed, 300, json_schema=schema)
    assert sampler.complete
    validate(text, schema)
    fewest = fewest_tokens(tokenizer, schema)
    text, sampler, _ = write(tokenizer, seed, fewest + draw.randrange(12), json_schema=schema)
    assert sampler.complete
    validate(text, schema)


def fewest_tokens(tokenizer, schema) -> int:
    matcher = Matcher(Grammar("json_schema", json.dumps(schema)), tokenizer, tokenizer.eos_ids)
    closing = find_closing(matcher, 400)
    assert closing is not None
    assert closes(matcher, closing)
    return len(closing)


PERSON = {
    "type": "object",
    "properties": {"first_name": {"type": "string"}, "years": {"type": "integer"}},
    "required": ["first_name", "years"],
    "additionalProperties": False,
}


def test_too_few_tokens_are_told(tokenizer):
    _, sampler, _ = write(tokenizer, 0, 4, json_schema=PERSON)
    assert not sampler.complete


def test_forced_tokens_cost_no_draw(tokenizer):
    """`{"first_name":"...","years":0}` leaves a choice of white space, a name, and a number."""
    text, sampler, draws = write(tokenizer, 3, 60, json_schema=PERSON)
    validate(text, PERSON)
    assert draws <= len(sampler._history) - len(tokenizer.encode_inside(b'irst_name"ears"'))


def test_no_tokens_are_forced_where_each_needs_its_log_probability(tokenizer):
    params = SamplingParams(json_schema=PERSON, logprobs=0)
    sampler = Sampler(params, tokenizer=tokenizer, ends=(2,), max_tokens=50)
    sampler(ROWS[0])
    assert sampler.forced() == []


REGEXES = [
    r"[0-9]{3}-[0-9]{4}",
    r"(yes|no|maybe)",
    r"[a-z]+@[a-z]+\.(com|org)",
    r"[a-z]{1,9}( [a-zé]+)*",
]


@pytest.mark.parametrize("regex", REGEXES)
@pytest.mark.parametrize("max_tokens", [12, 60])
def test_regex(tokenizer, regex, max_tokens):
    for seed in range(8):
        text, sampler, _ = write(tokenizer, seed, max_tokens, regex=regex)
        assert sampler.complete
        assert re.fullmatch(regex, text)


SUM = {
    "lark": 'start: term (("+" | "-") term)*\nterm: /[0-9]+/ | "(" start ")"',
    "gbnf": 'root ::= term (("+" | "-") term)*\nterm ::= [0-9]+ | "(" root ")"',
}


@pytest.mark.parametrize("kind", SUM)
@pytest.mark.parametrize("max_tokens", [3, 10, 60])
def test_grammar(tokenizer, kind, max_tokens):
    for seed in range(8):
        text, sampler, _ = write(tokenizer, seed, max_tokens, grammar=SUM[kind])
        assert sampler.complete
        assert isinstance(eval(re.sub(r"\b0+(?=[0-9])", "", text)), int)


def test_white_space_comes_to_an_end(tokenizer):
    """Of a model that says nothing but white space."""
    logits = np.zeros(32000, np.float32)
    for token, printed in enumerate(tokenizer.token_bytes):
        if printed and not printed.strip():
            logits[token] = 100
    params = SamplingParams(temperature=0, json_schema={"type": "array", "items": {"const": 1}})
    sampler = Sampler(params, tokenizer=tokenizer, ends=tokenizer.eos_ids, max_tokens=200)
    tokens: list[int] = []
    while len(tokens) < 200 and not sampler.finished:
        tokens += [sampler(logits), *sampler.forced()]
    text = b"".join(tokenizer.token_bytes[token] for token in tokens).decode()
    assert json.loads(text)[:3] == [1, 1, 1]
    assert max(len(gap) for gap in re.findall(r"\s+", text)) == 21


def test_a_mask_allows_exactly_what_may_come(tokenizer):
    matcher = Matcher(Grammar("regex", "(ab|ac)d?"), tokenizer, tokenizer.eos_ids)
    logits = np.zeros(32002, np.float32)  # some models have more rows than tokens
    matcher.mask(logits)
    allowed = {tokenizer.token_bytes[token] for token in np.flatnonzero(logits == 0)}
    assert allowed == {b"a", b"ab", b"ac"} | (allowed & {b"abd", b"acd"})
    assert (logits[32000:] == -np.inf).all()
    matcher.accept(tokenizer.encode_inside(b"ab")[0])
    assert matcher.complete
    logits = np.zeros(32000, np.float32)
    matcher.mask(logits)
    assert {*np.flatnonzero(logits == 0)} == {2, *(tokenizer.encode_inside(b"d"))} | {
        token for token, printed in enumerate(tokenizer.token_bytes) if printed == b"d"
    }


def test_control_tokens_are_no_text(tokenizer):
    matcher = Matcher(Grammar("regex", "(?s:.*)"), tokenizer, tokenizer.eos_ids)
    logits = np.zeros(32000, np.float32)
    matcher.mask(logits)
    assert logits[1] == -np.inf  # <s>
    assert logits[2] == 0  # </s>, which ends the text


def test_a_text_that_never_ends_by_itself_needs_no_end_token(tokenizer):
    matcher = Matcher(Grammar("regex", "a+"), tokenizer, ())
    logits = np.zeros(32000, np.float32)
    matcher.mask(logits)
    assert {tokenizer.token_bytes[token].strip(b"a") for token in np.flatnonzero(logits == 0)} == {
        b""
    }


@pytest.mark.parametrize("name", ["small.model", "small.json", "byte-level.json"])
def test_other_tokenizers(name):
    files = {"tokenizer." + name.split(".")[1]: (DATA / name).read_bytes()}
    tokenizer = Tokenizer.from_files(files)
    text, sampler, _ = write(tokenizer, 1, 60, json_schema=PERSON)
    assert sampler.complete
    validate(text, PERSON)


BAD = [
    ({"json_schema": "{"}, "^json_schema: expected one that can be enforced, found: "),
    ({"json_schema": '{"type": "text"}'}, "^json_schema: .*, found: Invalid type: text"),
    ({"json_schema": {"not": {}}}, r'^json_schema: .*, found: Unimplemented keys: \["not"\]'),
    ({"json_schema": {"$ref": "http://x/y"}}, "^json_schema: expected one that can be enforced"),
    ({"json_schema": "[]"}, "^json_schema: expected one that can be enforced"),
    ({"regex": "(a"}, "^regex: expected one that can be enforced, found: .* unclosed group"),
    ({"grammar": "start: foo"}, "^grammar: expected one that can be .*unknown name"),
    ({"grammar": 'root ::= "a" foo'}, "^grammar: .* found: Failed to convert .* 'foo' not found"),
]


@pytest.mark.parametrize(("params", "message"), BAD)
def test_what_cannot_be_enforced_is_refused(tokenizer, params, message):
    with pytest.raises(ConfigError, match=message) as caught:
        write(tokenizer, **params)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_grammar_that_grows_too_big_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("cpumix.sampling.grammar.MAX_ITEMS", 20)
    message = "^grammar: expected one that can be followed to its end, found: .*row has"
    with pytest.raises(ConfigError, match=message):
        write(tokenizer, max_tokens=None, ignore_eos=True, grammar='start: start start | "a"')


def test_only_one_at_a_time():
    message = "^json_schema and regex: expected one of them, found 2"
    with pytest.raises(ConfigError, match=message):
        SamplingParams(json_schema={}, regex="a")
    message = "^regex: expected its text, found ' '"
    with pytest.raises(ConfigError, match=message):
        SamplingParams(regex=" ")


def test_without_the_library_it_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    message = '^structured output: expected the package "llguidance", found none'
    with pytest.raises(ConfigError, match=message):
        write(tokenizer, regex="a")
