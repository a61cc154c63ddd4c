from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import sentencepiece
import tokenizers

from cpumix.errors import ConfigError
from cpumix.tokenizer import Tokenizer

DATA = Path(__file__).parent.parent / "data" / "tokenizer"
GOLDENS = json.loads((DATA / "goldens.json").read_text(encoding="utf-8"))
RECORDED = [(name, program) for name in GOLDENS if "." in name for program in GOLDENS[name]]
NAMES = sorted({name for name, _ in RECORDED})
MARKS = {
    "added_tokens_decoder": {
        "32000": {"content": "<|im_end|>", "special": True},
        "32001": {"content": "<|im_start|>", "special": False},
        "32002": {"content": "<think>", "special": False},
    }
}


def load(name: str, config: object = None, **files: object) -> Tokenizer:
    """Build a tokenizer of the test data; other files are given as name="what JSON they hold"."""
    contents = {"tokenizer." + name.split(".")[1]: (DATA / name).read_bytes()}
    for key, value in {"tokenizer_config": config, **files}.items():
        if value is not None:
            contents[f"{key}.json"] = json.dumps(value).encode()
    return Tokenizer.from_files(contents)


def random_ids(size: int, seed: int) -> list[list[int]]:
    """Ids as no model would make them, half of them from the start, where the byte tokens are."""
    draw = random.Random(seed)
    return [
        [draw.randrange(draw.choice([size, min(size, 400)])) for _ in range(draw.randrange(1, 24))]
        for _ in range(300)
    ]


@pytest.mark.parametrize(("name", "program"), RECORDED)
def test_hard_text_gives_the_ids_of_other_programs(name: str, program: str) -> None:
    tokenizer, golden = load(name), GOLDENS[name][program]
    for text, ids, decoded in zip(GOLDENS["texts"], golden["ids"], golden["decoded"], strict=True):
        assert tokenizer.encode(text, bos=False) == ids, text
        assert tokenizer.decode(ids) == decoded, text


@pytest.mark.parametrize(("name", "program"), RECORDED)
def test_long_text_gives_the_ids_of_other_programs(name: str, program: str) -> None:
    ids = load(name).encode("\n".join(GOLDENS["texts"] * 100), bos=False)
    assert [len(ids), crc32(" ".join(map(str, ids)).encode())] == GOLDENS[name][program]["long"]


def test_converted_sentencepiece_gives_the_same_ids_and_text() -> None:
    original, converted = GOLDENS["small.model"], GOLDENS["small.json"]
    assert original["sentencepiece"] == converted["transformers"]


@pytest.mark.parametrize("name", NAMES)
def test_bos_comes_once_and_only_if_asked(name: str) -> None:
    tokenizer = load(name)
    plain = tokenizer.encode("a text", bos=False)
    assert tokenizer.bos_id is not None
    assert tokenizer.bos_id not in plain
    assert tokenizer.encode("a text") == [tokenizer.bos_id, *plain]
    assert tokenizer.encode("") == [tokenizer.bos_id]
    assert load(name, {"add_bos_token": False}).encode("a text") == plain
    assert load(name, {"add_bos_token": True}).encode("a text") == [tokenizer.bos_id, *plain]


def test_bos_of_the_configuration_wins() -> None:
    tokenizer = load("byte-level.json", {"bos_token": "<|end_of_text|>"})
    assert tokenizer.encode("a") == tokenizer.encode("a", bos=False)  # the file adds another one
    tokenizer = load("small.model", {"bos_token": {"content": "</s>"}})
    assert tokenizer.encode("a")[0] == tokenizer.bos_id == 2


@pytest.mark.parametrize("name", NAMES)
def test_control_strings_in_a_text_stay_text(name: str) -> None:
    tokenizer = load(name, MARKS if name == "mixtral.model" else None)
    text = "<s>a</s> <|im_start|> <|im_end|><unk><|begin_of_text|><|eot_id|> <|tool|>b"
    ids = tokenizer.encode(text, bos=False)
    assert tokenizer.decode(ids) == text
    assert all(tokenizer.stream(continuing=True).put(token) for token in ids)


def test_added_tokens_have_their_ids() -> None:
    tokenizer = load("mixtral.model", MARKS)
    assert tokenizer.vocab_size == 32003
    assert tokenizer.decode([5365, 32000, 32001, 32002, 5365]) == "hi<think>hi"
    assert tokenizer.encode("a<think>b", bos=False) == [264, 32002, 287]  # not special: a word
    later = load("mixtral.model", MARKS | {"legacy": False})
    assert later.encode("a<think>b", bos=False) == [264, 32002, 28726]
    older = load("mixtral.model", added_tokens={"<|im_end|>": 32000, "<|im_start|>": 32001})
    assert older.vocab_size == 32002
    assert load("mixtral.model").vocab_size == 32000
    assert load("small.json").vocab_size == 602


ADDED_IN_JSON = {
    "version": "1.0",
    "model": {"vocab": {'"added_tokens": [7]': 0}},
    "added_tokens": [
        {"id": 1, "content": "<s>", "special": True},
        {"id": 32000, "content": "<|im_end|>", "special": True, "normalized": False},
        {"id": 32001, "content": "<|im_start|>", "special": True, "normalized": False},
        {"id": 32002, "content": "<think>", "special": False, "normalized": False},
    ],
}


def test_added_tokens_of_a_tokenizer_json_beside_the_model_count() -> None:
    # What transformers 5 saves: no added_tokens_decoder in tokenizer_config.json.
    tokenizer = load("mixtral.model", {"eos_token": "<|im_end|>"}, tokenizer=ADDED_IN_JSON)
    named = load("mixtral.model", MARKS | {"eos_token": "<|im_end|>"})
    assert tokenizer.vocab_size == named.vocab_size == 32003
    assert tokenizer.eos_ids == named.eos_ids == (32000,)
    text = "<|im_start|>user\nhi<think><|im_end|>"
    for control in (False, True):
        assert tokenizer.encode(text, control=control) == named.encode(text, control=control)


@pytest.mark.parametrize(("scheme", "legacy"), [("first", False), ("always", True)])
def test_rule_for_spaces_is_found_in_a_tokenizer_json(scheme: str, legacy: bool) -> None:
    spaces = {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": scheme}}
    tokenizer = load("mixtral.model", tokenizer=ADDED_IN_JSON | spaces)
    named = load("mixtral.model", MARKS | {"legacy": legacy})
    assert tokenizer.encode("a<think>b") == named.encode("a<think>b")


@pytest.mark.parametrize(
    ("kept", "says", "before", "after"),
    [
        (["bos", "text", "eos"], None, [1], [2]),
        (["text", "eos"], None, [], [2]),
        (["bos", "text"], None, [1], []),
        (["bos", "text"], True, [1], [2]),
        (["bos", "text", "eos"], False, [1], []),
    ],
)
def test_a_whole_text_ends_as_the_tokenizer_ends_it(
    kept: list[str], says: bool | None, before: list[int], after: list[int]
) -> None:
    """A tokenizer.json may put an EOS behind a text, as those of embedding models do."""
    ids = {"bos": ("<s>", 1), "eos": ("</s>", 2)}
    pieces: dict[str, Any] = {"text": {"Sequence": {"id": "A", "type_id": 0}}}
    pieces |= {k: {"SpecialToken": {"id": text, "type_id": 0}} for k, (text, _) in ids.items()}
    source = json.loads((DATA / "small.json").read_text(encoding="utf-8"))
    source["post_processor"] |= {
        "single": [pieces[name] for name in kept],
        "special_tokens": {
            text: {"id": text, "ids": [token], "tokens": [text]} for text, token in ids.values()
        },
    }
    source["truncation"] = {
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    source["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    config: dict[str, Any] = {"eos_token": "</s>"}
    if "bos" in kept:
        config["bos_token"] = "<s>"
    if says is not None:
        config["add_eos_token"] = says
    files = {"tokenizer.json": source, "tokenizer_config.json": config}
    tokenizer = Tokenizer.from_files({n: json.dumps(f).encode() for n, f in files.items()})
    text = "a text that goes on"
    plain = load("small.json").encode(text, bos=False)
    assert tokenizer.encode(text) == [*before, *plain]  # which is gone on with
    assert tokenizer.encode_whole(text) == [*before, *plain, *after]


@pytest.mark.parametrize(("says", "after"), [(None, []), (False, []), (True, [2])])
def test_a_whole_text_of_sentencepiece_has_an_eos_if_asked(says: bool | None, after: list) -> None:
    tokenizer = load("small.model", None if says is None else {"add_eos_token": says})
    assert tokenizer.encode_whole("a text") == [*tokenizer.encode("a text"), *after]


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_are_read_if_asked(name: str) -> None:
    tokenizer = load(name, MARKS if name == "mixtral.model" else None)
    bos, end = next(iter(tokenizer.encode(""))), None
    text = "<s>" if name != "byte-level.json" else "<|begin_of_text|>"
    plain = tokenizer.encode("hello", bos=False)
    if name != "small-first.json":  # there only a text at the very start gets a space
        assert tokenizer.encode(f"{text}hello", control=True) == [bos, *plain]
    assert tokenizer.encode("hello", control=True) == [bos, *plain]
    assert tokenizer.encode("hello", bos=False, control=True) == plain
    assert tokenizer.encode(f"{text}{text}", control=True) == [bos, bos]
    assert tokenizer.encode("", control=True) == [bos]
    if name == "mixtral.model":
        end = tokenizer.encode("a</s><|im_end|> b", control=True)
        assert end == [1, 264, 2, 32000, 287]


@pytest.mark.parametrize(("name", "program"), RECORDED)
def test_text_without_control_tokens_is_the_same_either_way(name: str, program: str) -> None:
    tokenizer = load(name)
    for text, ids in zip(GOLDENS["texts"], GOLDENS[name][program]["ids"], strict=True):
        if not re.search(r"<[|/]?\w+[|]?>", text):
            assert tokenizer.encode(text, bos=False, control=True) == ids


def test_end_of_turn_is_no_word_even_if_declared_one() -> None:
    declared = {"added_tokens_decoder": {"32000": {"content": "<end>", "special": False}}}
    assert 32000 in load("mixtral.model", declared).encode("a<end>")
    assert 32000 not in load("mixtral.model", declared | {"eos_token": "<end>"}).encode("a<end>")


def test_added_token_may_rename_a_placeholder() -> None:
    tokenizer = load("mixtral.model", {"added_tokens_decoder": {"31999": {"content": "<end>"}}})
    assert tokenizer.vocab_size == 32000
    assert tokenizer.decode([31999, 12014]) == "hi"


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (None, None, (2,)),
        (None, {"eos_token_id": 5}, (5,)),
        (None, {"eos_token_id": [2, 32000]}, (2, 32000)),
        ({"eos_token": "<|im_end|>"}, None, (32000,)),
        ({"eos_token": {"content": "<|im_end|>"}}, {"eos_token_id": 2}, (2, 32000)),
        ({"eos_token": "</s>"}, {"eos_token_id": [2]}, (2,)),
        ({"eos_token": "no such token"}, {"eos_token_id": None}, (2,)),
    ],
)
def test_eos_ids_are_all_that_the_files_name(
    config: dict[str, Any] | None, generation: object, expected: tuple[int, ...]
) -> None:
    config = MARKS | (config or {})
    assert load("mixtral.model", config, generation_config=generation).eos_ids == expected


def test_eos_of_a_tokenizer_json_is_the_configured_one() -> None:
    assert load("byte-level.json").eos_ids == ()
    tokenizer = load("byte-level.json", special_tokens_map={"eos_token": "<|eot_id|>"})
    assert [tokenizer.decode([token]) for token in tokenizer.eos_ids] == [""]


@pytest.mark.parametrize("name", ["mixtral.model", "small.model"])
def test_decode_equals_sentencepiece_for_any_ids(name: str) -> None:
    tokenizer = load(name)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(DATA / name))
    for ids in random_ids(tokenizer.vocab_size, seed=1):
        assert tokenizer.decode(ids) == oracle.decode(ids), ids


@pytest.mark.parametrize("name", ["byte-level.json", "small.json", "small-first.json"])
def test_decode_equals_tokenizers_for_any_ids(name: str) -> None:
    tokenizer = load(name, {"eos_token": "<|tool|>"})
    oracle = tokenizers.Tokenizer.from_file(str(DATA / name))
    oracle.add_special_tokens(["<|tool|>"] if name == "byte-level.json" else [])
    for ids in random_ids(tokenizer.vocab_size, seed=2):
        expected = oracle.decode(ids)
        if name == "byte-level.json" or "\ufffd" not in expected:
            assert tokenizer.decode(ids) == expected, ids


def test_first_space_written_as_byte_is_hidden_as_its_library_hides_it() -> None:
    ids = [0x20 + 3, 0x41 + 3]  # byte tokens follow <unk>, <s> and </s>
    assert load("small.json").decode(ids) == "A"
    assert load("small.model").decode(ids) == " A"


@pytest.mark.parametrize("name", NAMES)
def test_stream_equals_decode_for_any_ids(name: str) -> None:
    tokenizer = load(name)
    for ids in random_ids(tokenizer.vocab_size + 5, seed=3):
        stream = tokenizer.stream()
        assert "".join([*map(stream.put, ids), stream.finish()]) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_continuing_stream_goes_on_where_the_prompt_ended(name: str) -> None:
    tokenizer = load(name)
    prompt = tokenizer.encode("And they")
    for ids in random_ids(tokenizer.vocab_size, seed=4):
        stream = tokenizer.stream(continuing=True)
        text = "".join([*map(stream.put, ids), stream.finish()])
        assert tokenizer.decode([*prompt, *ids]) == "And they" + text


def test_first_space_is_shown_only_when_continuing() -> None:
    tokenizer = load("mixtral.model")
    the, *_ = tokenizer.encode("the", bos=False)
    assert tokenizer.stream(continuing=True).put(the) == " the"
    stream = tokenizer.stream()
    assert [stream.put(token) for token in (1, the, the)] == ["", "the", " the"]


@pytest.mark.parametrize("name", NAMES)
def test_stream_holds_back_incomplete_characters(name: str) -> None:
    tokenizer = load(name)
    ids = tokenizer.encode("a𩸽b", bos=False)  # a rare character: four bytes, no token of its own
    stream = tokenizer.stream()
    pieces = [stream.put(token) for token in ids]
    assert [piece for piece in pieces if piece] == ["a", "𩸽", "b"]
    assert "".join(pieces[1:4]) == ""
    assert stream.finish() == ""


def test_stream_that_ends_inside_a_character_says_so() -> None:
    emoji = load("mixtral.model").encode("𩸽", bos=False)
    stream = load("mixtral.model").stream()
    assert "".join(map(stream.put, emoji[:-1])) == ""
    assert stream.finish() == "\ufffd" * 3


@pytest.mark.parametrize("name", NAMES)
def test_ids_outside_the_vocabulary_print_nothing(name: str) -> None:
    tokenizer = load(name)
    assert tokenizer.decode([-1, tokenizer.vocab_size, 10**9]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_half_characters_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"found the half character U\+D83D in place 3"):
        load(name).encode("ab\ud83d")


def test_text_like_the_mark_of_a_continued_text_is_harmless() -> None:
    tokenizer = load("byte-level.json")
    assert max(tokenizer.encode("\ufdd0earlier\ufdd1")) < tokenizer.vocab_size


def test_vocabulary_missing() -> None:
    with pytest.raises(ConfigError, match=r"found none\. Copy one beside the weights and convert"):
        Tokenizer.from_files({"tokenizer_config.json": b"{}"})


@pytest.mark.parametrize("content", [b"", b"no model", (DATA / "small.model").read_bytes()[:-9]])
def test_damaged_sentencepiece_model(content: bytes) -> None:
    with pytest.raises(ConfigError, match=f"a sentencepiece model, found {len(content)} bytes"):
        Tokenizer.from_files({"tokenizer.model": content})


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", (DATA / "small.json").read_bytes()[:-9]])
def test_damaged_tokenizer_json(content: bytes) -> None:
    with pytest.raises(ConfigError, match=f"a serialized tokenizer, found {len(content)} bytes"):
        Tokenizer.from_files({"tokenizer.json": content})


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}])
def test_tokenizer_of_another_kind(decoder: dict[str, Any] | None) -> None:
    changed = json.loads((DATA / "small.json").read_bytes()) | {"decoder": decoder}
    found = decoder["type"] if decoder else "none"
    with pytest.raises(ConfigError, match=f"ByteLevel or ByteFallback, found {found}"):
        Tokenizer.from_files({"tokenizer.json": json.dumps(changed).encode()})


def test_tokenizers_library_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r'found none\. Run: pip install "cpumix\[tokenizers\]"'):
        load("small.json")
    load("small.model")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer_config.json", b"{", "expected valid JSON, found Expecting property name"),
        ("tokenizer_config.json", b"\xff{}", "expected valid JSON, found 'utf-8' codec"),
        ("special_tokens_map.json", b"[" * 100_000, "expected valid JSON, found maximum recursion"),
        ("generation_config.json", b"[]", "expected a JSON object at the top, found list"),
        (
            "generation_config.json",
            b'{"eos_token_id": -1}',
            "expected a token id from 0 on, found -1",
        ),
        (
            "generation_config.json",
            b'{"eos_token_id": [2, true]}',
            "a token id from 0 on, found True",
        ),
        (
            "generation_config.json",
            b'{"eos_token_id": 99%s}' % (b"9" * 5000),
            "expected valid JSON",
        ),
        ("added_tokens.json", b'{"<a>": "x"}', "expected a token id from 0 on, found 'x'"),
        ("added_tokens.json", b'{"<a>": 4194304}', "expected a token id up to 4194303"),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"%s": "a"}}' % (b"9" * 5000),
            "found '999",
        ),
        (
            "tokenizer.json",
            b'{"added_tokens": [{"id": 3, "con',
            "a list of added tokens, found damag",
        ),
        (
            "tokenizer.json",
            b'{"added_tokens": [{"id": "\xff", "content": "a"}]}',
            "a token id from 0",
        ),
        ("chat_template.json", b"7", "expected a JSON object at the top, found int"),
    ],
)
def test_damaged_side_file_is_named_and_left_out(name: str, content: bytes, match: str) -> None:
    files = {"tokenizer.model": (DATA / "small.model").read_bytes()}
    tokenizer = Tokenizer.from_files(files | {name: content})
    (note,) = tokenizer.notes
    assert note.startswith(f"{name}: ")
    assert note.endswith(". Went on without it.")
    assert match in note
    assert len(note) < 300
    assert tokenizer.encode("a text") == Tokenizer.from_files(files).encode("a text")


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        (
            "added_tokens.json",
            {f"<{i}>": i for i in range(65537)},
            "added tokens: expected at most 65536, found 65537.",
        ),
        (
            "special_tokens_map.json",
            {f"{i}_token": "x" for i in range(257)},
            "special tokens: expected at most 256, found 257.",
        ),
        (
            "tokenizer_config.json",
            {"chat_template": {str(i): "x" for i in range(65)}},
            "chat templates: expected at most 64, found 65.",
        ),
    ],
)
def test_so_many_parts_that_they_take_all_memory(name: str, content: object, note: str) -> None:
    files = {"tokenizer.model": (DATA / "small.model").read_bytes()}
    tokenizer = Tokenizer.from_files(files | {name: json.dumps(content).encode()})
    assert tokenizer.notes == (f"{note} Went on without it.",)
    assert not tokenizer.has_chat_template


def test_half_characters_in_a_side_file_are_left_out() -> None:
    tokenizer = load("mixtral.model", {"bos_token": "\ud800", "eos_token": "a\ud800b"})
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
    (note,) = tokenizer.notes
    assert (
        note == "tokenizer_config.json: it has half characters (U+D800 to U+DFFF). Went on without."
    )


def test_bos_or_eos_that_is_no_token_is_said() -> None:
    tokenizer = load("mixtral.model", {"bos_token": "<s>", "eos_token": "<|im\n_end|>"})
    assert tokenizer.eos_ids == (2,)
    (note,) = tokenizer.notes
    assert note == (
        r'tokenizer_config.json: eos_token "<|im\n_end|>" is no token of the vocabulary.'
    )


def test_piece_that_is_not_unicode() -> None:
    model = (DATA / "small.model").read_bytes().replace(b"\xe2\x96\x81the", b"\xe2\x96\xffthe")
    with pytest.raises(ConfigError, match="expected pieces in UTF-8, found other bytes in that of"):
        Tokenizer.from_files({"tokenizer.model": model})


def test_tokenizer_json_that_cannot_encode() -> None:
    changed = json.loads((DATA / "small.json").read_bytes())
    changed["model"] = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"a": 0},
    }
    with pytest.raises(ConfigError, match=r"expected a tokenizer that works, found .*UNK"):
        Tokenizer.from_files({"tokenizer.json": json.dumps(changed).encode()}).encode("b")


def test_tokenizer_json_whose_expression_takes_too_long(capfd: pytest.CaptureFixture[str]) -> None:
    changed = json.loads((DATA / "byte-level.json").read_bytes())
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated"}
    changed["pre_tokenizer"]["pretokenizers"] = [{**split, "invert": False}]
    changed["pre_tokenizer"]["type"] = "Sequence"
    tokenizer = Tokenizer.from_files({"tokenizer.json": json.dumps(changed).encode()})
    with pytest.raises(ConfigError, match=r"expected a tokenizer that works, found .*retry-limit"):
        tokenizer.encode("x" * 200)
    assert "retry-limit" in capfd.readouterr().err  # what the library says itself


def test_import_loads_no_tokenizer_library() -> None:
    code = "import sys, cpumix.tokenizer; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {b"sentencepiece", b"tokenizers", b"jinja2"} & set(loaded.split())
