"""Mistral's own tokenizer files give the ids of Mistral's own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from mistral_files import mistral_files, model, tekken

from cpumix.errors import ConfigError
from cpumix.tokenizer import Tokenizer, prepare_files
from cpumix.tokenizer.chat_template import ChatTemplate
from cpumix.tokenizer.mistral import chat_templates, find_model, template_of

DATA = Path(__file__).parent.parent / "data" / "tokenizer"
GOLDENS = json.loads((DATA / "mistral.json").read_text(encoding="utf-8"))
TEXTS = json.loads((DATA / "goldens.json").read_text(encoding="utf-8"))["texts"]
KINDS = list(GOLDENS["kinds"])
TURN = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_give_the_ids_of_mistral_common(kind: str) -> None:
    tokenizer = Tokenizer.from_files(mistral_files(kind))
    assert not tokenizer.notes
    for name, ids in GOLDENS["kinds"][kind]["chats"].items():
        assert tokenizer.encode_chat(**GOLDENS["chats"][name]) == ids, name


@pytest.mark.parametrize("kind", KINDS)
def test_hard_text_gives_the_ids_of_mistral_common(kind: str) -> None:
    tokenizer = Tokenizer.from_files(mistral_files(kind))
    texts = [tokenizer.encode(text, bos=False) for text in TEXTS]
    assert [len([token for ids in texts for token in ids]), crc32(repr(texts).encode())] == GOLDENS[
        "kinds"
    ][kind]["texts"]
    for text, ids in zip(TEXTS, texts, strict=True):
        assert tokenizer.decode(ids) == (text if "tekken" in kind else text.replace("\u2581", " "))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_their_roles(kind: str) -> None:
    tokenizer = Tokenizer.from_files(mistral_files(kind))
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.adds_bos) == (1, (2,), True)
    assert tokenizer.vocab_size == (1100 if "tekken" in kind else 32000 if kind == "v1" else 32768)
    assert tokenizer.encode("") == [1]
    assert tokenizer.decode([1, 2, 3]) == ("\0" if kind == "v1" else "")


def test_first_version_has_no_tools() -> None:
    tokenizer = Tokenizer.from_files(mistral_files("v1"))
    with pytest.raises(ConfigError, match="This model was not trained to use tools"):
        tokenizer.encode_chat(**GOLDENS["chats"]["tools"])


def test_mixtral_takes_the_first_template_by_name() -> None:
    tokenizer = Tokenizer.from_files({"tokenizer.model": model(1)})
    assert not tokenizer.has_chat_template  # of a base model, and of an instruct one without files
    ids = tokenizer.encode_chat(GOLDENS["chats"]["three"]["messages"], chat_template="mistral-v1")
    expected = (
        "1 733 16289 28793 2188 2928 733 28748 16289 28793 13892 2928 2 "
        "733 16289 28793 633 2188 2928 733 28748 16289 28793"
    )
    assert ids == [int(token) for token in expected.split()]


def test_later_versions_take_the_template_before_them() -> None:
    templates = chat_templates()
    assert template_of("tokenizer.model.v3m1") == templates["mistral-v3"]
    assert template_of("tokenizer.model.v12") == templates["mistral-v11"]
    assert template_of("tokenizer.model.v0") is None
    assert template_of("tokenizer.model") is None
    assert find_model(["tokenizer.model.v3", "tokenizer.model.v13", "tokenizer.model.v7m1"]) == (
        "tokenizer.model.v13"
    )
    newer = Tokenizer.from_files({"tekken.json": tekken(15)})
    assert newer.has_chat_template
    nameless = json.loads(tekken(7))
    nameless["config"]["version"] = "seven"
    assert not Tokenizer.from_files(
        {"tekken.json": json.dumps(nameless).encode()}
    ).has_chat_template


def test_own_template_of_the_checkpoint_wins() -> None:
    files = {**mistral_files("v3"), "chat_template.jinja": b"own {{ messages[0].content }}"}
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer.decode(tokenizer.encode_chat(TURN)) == "own hi"


def test_roles_that_mistral_does_not_know() -> None:
    tokenizer = Tokenizer.from_files(mistral_files("v3"))
    with pytest.raises(ConfigError, match="Expected the roles system, user, assistant and tool"):
        tokenizer.encode_chat([*TURN, {"role": "critic", "content": "bad"}])


@pytest.mark.parametrize("kind", ["v1", "v3", "tekken-v7"])
def test_prepared_files_give_the_same_ids(kind: str) -> None:
    files = {**mistral_files(kind), "tokenizer_config.json": b'{"model_max_length": 7}'}
    prepared = prepare_files(files)
    assert set(prepared) == {
        "tokenizer_config.json",
        "tokenizer.json" if "tekken" in kind else "tokenizer.model",
    }
    first, second = Tokenizer.from_files(files), Tokenizer.from_files(prepared)
    assert first.eos_ids == second.eos_ids
    assert not second.notes
    for name in GOLDENS["kinds"][kind]["chats"]:
        chat = GOLDENS["chats"][name]
        assert first.encode_chat(**chat) == second.encode_chat(**chat)


def test_damaged_files_are_not_kept() -> None:
    files = {
        **mistral_files("v1"),
        "generation_config.json": b"{",
        "added_tokens.json": b"[]",
        "tokenizer_config.json": b"{}",
    }
    assert list(prepare_files(files)) == ["tokenizer_config.json", "tokenizer.model"]
    assert len(Tokenizer.from_files(files).notes) == 2


def test_files_of_transformers_are_kept_before_those_of_mistral() -> None:
    both = {**mistral_files("v1"), **mistral_files("tekken-v3"), "tokenizer.model": model(1)}
    assert list(prepare_files(both)) == ["tokenizer.model"]
    assert not Tokenizer.from_files(both).has_chat_template
    files = {**mistral_files("tekken-v3"), "tokenizer.json": b"{}"}
    assert list(prepare_files(files)) == ["tokenizer.json"]


@pytest.mark.parametrize("version", [3, 7, 13])
def test_templates_run_elsewhere(version: int) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    template = environment.from_string(chat_templates()[f"mistral-v{version}"])
    call = {"id": "123456789", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        *TURN,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "123456789"},
    ]
    text = template.render(messages=messages, bos_token="<s>", eos_token="</s>")
    chat = ChatTemplate(chat_templates()[f"mistral-v{version}"], [], {"bos_token": "<s>"})
    ours = "".join(text for text, _ in chat.render(messages, variables={"eos_token": "</s>"}))
    assert text.replace('"content": "1"', '"content": 1') == ours


def changed(**fields: Any) -> bytes:
    data = json.loads(tekken(3))
    data["config"] |= {k: v for k, v in fields.items() if k in data["config"]}
    data |= {k: v for k, v in fields.items() if k not in data["config"]}
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "tekken.json: expected valid JSON, found Expecting value"),
        (b"[" * 100_000, "tekken.json: expected valid JSON, found maximum recursion"),
        (b"[]", r"expected Mistral's vocabulary, found something else \('config'\)"),
        (changed(default_vocab_size=10**12), "1000000000000 tokens, 100 of them special"),
        (changed(default_vocab_size=10**5), "1005 tokens, which do not begin with all bytes"),
        (changed(default_num_special_tokens=0), "1100 tokens, 0 of them special"),
        (changed(default_vocab_size="\ud800"), "expected Mistral's vocabulary, found something"),
        (changed(vocab=[{"token_bytes": "?"}] * 2000), "expected Mistral's vocabulary, found some"),
        (changed(vocab=7), "expected Mistral's vocabulary, found something else"),
        (changed(special_tokens=[{"rank": 0, "token_str": "a"}]), "no <s>, no </s>, or special"),
        (changed(special_tokens=[7]), "expected Mistral's vocabulary, found something else"),
        (changed(pattern="("), "tokenizer.json: expected a serialized tokenizer, found"),
    ],
)
def test_damaged_tekken(content: bytes, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Tokenizer.from_files({"tekken.json": content})
