"""Tokenizers in GGUF metadata become files that give the ids, texts and marks of the original."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from gguf_files import TOKENIZERS, byte_level_metadata, sentencepiece_metadata

from cpumix.checkpoint.late_files import LateFile, LateFiles, solid_bytes
from cpumix.checkpoint.sources.gguf.pre_tokenizers import PRE_TOKENIZERS
from cpumix.checkpoint.sources.gguf.tokenizer import tokenizer_files
from cpumix.errors import ConvertError
from cpumix.sampling import SamplingParams, model_defaults
from cpumix.store.gguf import encode_header, parse_header
from cpumix.store.strings import Strings
from cpumix.tokenizer import Tokenizer, prepare_files

GOLDENS = json.loads((TOKENIZERS / "goldens.json").read_text(encoding="utf-8"))
PRE = json.loads((TOKENIZERS / "gguf-pre.json").read_text(encoding="utf-8"))
CHATML = (TOKENIZERS / "templates/chatml.jinja").read_text()


def load(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_files(tokenizer_files(metadata, "m.gguf"))


def refused(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        tokenizer_files(metadata, "m.gguf")


def small(**changes: Any) -> dict[str, Any]:
    """Return a sentencepiece tokenizer's metadata; `changes` without their prefix."""
    metadata = sentencepiece_metadata((TOKENIZERS / "small.model").read_bytes())
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def with_tokens(*added: tuple[str, int]) -> dict[str, Any]:
    """Return a sentencepiece tokenizer's metadata with tokens of these types at the end."""
    metadata = small()
    metadata["tokenizer.ggml.tokens"] += [text for text, _ in added]
    for key, values in (("token_type", [kind for _, kind in added]), ("scores", [0] * len(added))):
        name = f"tokenizer.ggml.{key}"
        metadata[name] = np.append(metadata[name], np.array(values, metadata[name].dtype))
    return metadata


@pytest.mark.parametrize("name", ["small.model", "mixtral.model"])
def test_sentencepiece_gives_the_ids_and_texts_of_the_original(name: str) -> None:
    tokenizer = load(sentencepiece_metadata((TOKENIZERS / name).read_bytes()))
    golden = GOLDENS[name]["sentencepiece"]
    for text, ids, decoded in zip(GOLDENS["texts"], golden["ids"], golden["decoded"], strict=True):
        assert tokenizer.encode(text, bos=False) == ids, text
        assert tokenizer.decode(ids) == decoded, text
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.adds_bos) == (1, (2,), True)


def test_byte_level_gives_the_ids_and_texts_of_the_original() -> None:
    tokenizer = load(byte_level_metadata())
    (golden,) = GOLDENS["byte-level.json"].values()
    for text, ids, decoded in zip(GOLDENS["texts"], golden["ids"], golden["decoded"], strict=True):
        assert tokenizer.encode(text, bos=False) == ids, text
        assert tokenizer.decode(ids) == decoded, text
    assert (tokenizer.bos_id, tokenizer.adds_bos) == (600, True)
    assert tokenizer.eos_ids == (601, 604)  # end of text by its id, end of turn by its name


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_each_way_of_splitting_gives_the_ids_of_llama_cpp(pre: str) -> None:
    tokenizer = load(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": PRE["tokens"],
            "tokenizer.ggml.merges": PRE["merges"],
        }
    )
    ids = [tokenizer.encode(text, bos=False) for text in GOLDENS["texts"]]
    assert crc32(" ".join(map(str, ids)).encode()) == PRE["crc32"][pre]


def test_llama_3_is_known_without_a_name() -> None:
    metadata = byte_level_metadata()
    named = load(metadata).encode("abc 1234 don't\n\n x")
    for absent in ("default", "", None):
        metadata["tokenizer.ggml.pre"] = absent
        if absent is None:
            del metadata["tokenizer.ggml.pre"]
        assert load(metadata).encode("abc 1234 don't\n\n x") == named


def test_whole_tokenizer_json_is_taken_as_it_is() -> None:
    whole = (TOKENIZERS / "byte-level.json").read_text(encoding="utf-8")
    files = tokenizer_files(byte_level_metadata() | {"tokenizer.huggingface.json": whole}, "m")
    assert files["tokenizer.json"].decode() == whole


@pytest.mark.parametrize(("given", "adds"), [(None, True), (False, False), (True, True)])
def test_bos_is_added_as_the_metadata_say(given: bool | None, adds: bool) -> None:
    changes = {} if given is None else {"add_bos_token": given}
    assert load(small(**changes)).adds_bos is adds
    metadata = byte_level_metadata("gpt-2")
    assert not load(metadata).adds_bos
    assert load(metadata | {"tokenizer.ggml.add_bos_token": True}).adds_bos


def test_space_before_a_text_is_left_out_as_the_metadata_say() -> None:
    plain, prefixed = load(small(add_space_prefix=False)), load(small())
    assert prefixed.encode("The x") != plain.encode("The x")
    assert prefixed.encode("The x") == plain.encode(" The x")
    assert plain.decode(plain.encode(" The x")) == " The x"


def test_added_tokens_are_words_and_turn_marks_are_control() -> None:
    metadata = with_tokens(("<|im_start|>", 4), ("<|im_end|>", 3), ("<think>", 4))
    metadata["tokenizer.chat_template"] = CHATML
    tokenizer = load(metadata)
    first = len(small()["tokenizer.ggml.tokens"])
    assert tokenizer.vocab_size == first + 3
    assert first + 2 in tokenizer.encode("so <think> x")
    assert not {first, first + 1} & set(tokenizer.encode("<|im_start|><|im_end|>"))
    assert tokenizer.decode([first + 2]) == "<think>"
    chat = tokenizer.encode_chat([{"role": "user", "content": "x"}])
    assert chat.count(first) == 2 and chat.count(first + 1) == 1
    assert tokenizer.eos_ids == (2, first + 1)


def test_control_tokens_of_byte_level_are_no_text() -> None:
    tokenizer = load(byte_level_metadata())
    assert 600 not in tokenizer.encode("<|begin_of_text|>", bos=False)
    assert 605 in tokenizer.encode("x <think>")
    assert tokenizer.decode([600, 605]) == "<think>"


def test_named_templates_are_kept_and_the_default_is_used() -> None:
    metadata = with_tokens(("<|im_start|>", 3), ("<|im_end|>", 3))
    metadata["tokenizer.chat_template"] = CHATML
    metadata["tokenizer.chat_template.tool_use"] = "other"
    files = tokenizer_files(metadata, "m")
    named = json.loads(files["tokenizer_config.json"])["chat_template"]
    assert {t["name"]: t["template"] for t in named} == {"default": CHATML, "tool_use": "other"}
    assert Tokenizer.from_files(files).has_chat_template
    assert not load(small()).has_chat_template


def test_ids_outside_the_vocabulary_are_not_heeded() -> None:
    assert load(small(eos_token_id=10**6, bos_token_id=-1)).eos_ids == (2,)


def test_odd_types_are_settled() -> None:
    """No unknown piece, BOS that is not control, a byte missing, an empty token."""
    metadata = small()
    types = metadata["tokenizer.ggml.token_type"].copy()
    types[[0, 1]] = 1
    types[10], types[-1] = 0, 6
    metadata["tokenizer.ggml.token_type"] = types
    metadata["tokenizer.ggml.tokens"][-1] = ""
    tokenizer = load(metadata)
    assert tokenizer.encode("abc")[0] == tokenizer.bos_id == 1
    assert tokenizer.decode(tokenizer.encode("and the")) == "and the"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, 'expected "llama" or "gpt2", found "bert"'),
        ({"model": None}, 'expected "llama" or "gpt2", found "None"'),
        ({"tokens": None}, "the tokenizer needs a list of tokens, found none"),
        ({"tokens": ["<unk>", "a", "a"]}, 'needs each token once, found "a" twice'),
        ({"scores": None}, "expected a score for each piece of sentencepiece, found none"),
        ({"scores": np.zeros(3, np.float32)}, "needs a number for each of 600 tokens"),
        ({"token_type": np.full(600, np.nan, np.float32)}, "needs a number for each of 600"),
        ({"add_bos_token": np.zeros(2)}, "the tokenizer needs true or false, found"),
        ({"token_type": "x"}, 'needs a number for each of 600 tokens, found "str"'),
    ],
)
def test_damaged_tokenizer_is_refused(changes: dict[str, Any], message: str) -> None:
    refused(small(**changes), message)


def test_damaged_byte_level_is_refused() -> None:
    refused(
        byte_level_metadata("no-such\n"), r'splits text is unknown to cpumix, found "no-such\\n"'
    )
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.merges"]
    refused(metadata, "expected the merges of a byte-level BPE, found none")


@pytest.mark.parametrize("n", [1, 9, 10, 11, 100, 101, 1002])
def test_a_file_that_is_not_written_yet_has_the_size_that_it_will_have(n: int) -> None:
    """Whatever JSON makes of its bytes: escapes, blanks, line ends, letters of several bytes."""
    letters = [*map(chr, range(256)), "Ġ", "日", "🦊", "\u2028"]
    random = np.random.default_rng(n)
    texts = ["".join(random.choice(letters, random.integers(1, 6))) for _ in range(3 * n)]
    tokens = list(dict.fromkeys(f"{text}{i}" for i, text in enumerate(texts[:n])))
    tokens[-1] = ""
    metadata = byte_level_metadata() | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": random.integers(1, 7, n).astype(np.int32),
    }
    for merges in (texts[n:], [], ["a b"], as_in_a_header(texts[n:]), as_in_a_header([])):
        files = tokenizer_files(metadata | {"tokenizer.ggml.merges": merges}, "m.gguf")
        before = files.solid_bytes("tokenizer.json")
        written = files["tokenizer.json"]
        assert json.loads(written)["model"]["merges"] == list(merges)
        assert before == len(written.translate(None, b" \n"))
        assert before == solid_bytes(written) == files.solid_bytes("tokenizer.json")


def as_in_a_header(texts: list[str]) -> Strings:
    """Return strings as the header of a GGUF file has them."""
    data = encode_header({"k": texts}, [])
    found: Strings = parse_header(BytesIO(data), len(data), "m", ["k"]).metadata["k"]
    return found


def test_a_late_file_is_written_once_and_only_to_be_read() -> None:
    written = []
    late = LateFile(lambda: written.append(1) or b"a b", lambda: 2)
    files = LateFiles({"x": late, "y": b"c\n"})
    assert ("x" in files, "z" in files, len(files), list(files)) == (True, False, 2, ["x", "y"])
    assert (files.solid_bytes("x"), files.solid_bytes("y"), files.get("z")) == (2, 1, None)
    assert prepare_files(files) is files
    assert not written
    assert dict(files) == {"x": b"a b", "y": b"c\n"} == dict(files)
    assert written == [1]
    assert files.solid_bytes("x") == 2


def test_how_a_model_wants_to_be_sampled_is_kept() -> None:
    metadata = small() | {
        "general.sampling.temp": float(np.float32(0.7)),
        "general.sampling.top_p": float(np.float32(0.95)),
        "general.sampling.top_k": 20,
        "general.sampling.min_p": "none",
        "general.sampling.penalty_last_n": 64,
    }
    files = tokenizer_files(metadata, "m.gguf")
    assert model_defaults(files) == SamplingParams(temperature=0.7, top_p=0.95, top_k=20)
    assert model_defaults(tokenizer_files(small(), "m.gguf")) == SamplingParams()
