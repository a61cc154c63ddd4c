# ruff: noqa: RUF001 -- hard text is full of letters that look like others
"""Record what sentencepiece and transformers make of hard text and of conversations.

    python tools/record_tokenizer_goldens.py           write tests/data/tokenizer/goldens.json
    python tools/record_tokenizer_goldens.py --train   also train the small tokenizers anew

It needs transformers and sentencepiece (`pip install cpumix[oracle]`) and no network. Mixtral's own
tokenizer, mixtral.model, is tokenizer.model.v1 of the PyPI package mistral-common.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from zlib import crc32

import sentencepiece
import tokenizers
import transformers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.tokenization_utils_base import generate_merges

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data/tokenizer"
TRAINING_TEXT = (ROOT / "LICENSE").read_text(encoding="utf-8")
TURN_MARKS = {"<|im_end|>": 0, "<|im_start|>": 1}  # added after the vocabulary, in this order
LONG = 100  # repetitions of all texts that make the long one; of its ids a checksum is kept

TEXTS = [
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "Don't you'll WE'VE I'm",
    " leading space",
    "  two leading spaces",
    "trailing space ",
    "trailing spaces   ",
    " ",
    "        ",
    "a  b   c    d                 e",
    "tab\there\t\tand\ttabs",
    "line\nline\n\nline\r\nline\n\n\n",
    "\n",
    "\t",
    " \n \n ",
    "def f(x):\n    if x:\n        return x ** 2  # comment\n",
    "1234567890 3.14159 1,000,000 -7 0x1F 2^10",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~\\",
    "café naïve résumé Straße Ørsted",
    "cafe\u0301 e\u0301\u0323 a\u0308o\u0308u\u0308",
    "Привет, мир! Γειά σου Κόσμε",
    "שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好,世界。今天天气很好!",
    "こんにちは世界、カタカナ 한국어 텍스트",
    "𠮷野家 𩸽 龘靐齉",
    "😀 😃😄 🤷🏽‍♀️ ❤️‍🔥",
    "👨‍👩‍👧‍👦👩🏿‍🚀🏳️‍🌈",
    "🇫🇷🇩🇪🇯🇵 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕄𝕒𝕥𝕙 ∀x∈ℝ: ∃y ≠ x",
    "nul\x00inside \x00\x00",
    "\x01\x02\x07\x08\x0b\x0c\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "zero\u200bwidth\u200djoiner\u2060word\ufeffmark",
    "no-break\u00a0space thin\u2009space ideographic\u3000space",
    "right\u202eto left\u202c soft\u00adhyphen",
    "replacement \ufffd private \ue000\uf8ff last \U0010ffff",
    "combining " + "a" + "\u0300" * 20,
    "▁lower one eighth block▁▁ inside ▁",
    "<0x0A> <0xF0><0x9F> <pad>",
    "[INST] not a token [/INST] <<SYS>>",
    "http://example.com/a?b=c&d=%20#e user@example.com",
    "a" * 300,
    "ab" * 100 + " " * 100 + "🙂" * 30,
]

TURNS = [
    {"role": "user", "content": "user message"},
    {"role": "assistant", "content": "assistant message"},
    {"role": "user", "content": "new user message"},
]
SPACED = [{"role": "user", "content": "  What is\n\n  2 + 2? 🙂 "}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TURNS]


def train_small_model() -> bytes:
    """Train a sentencepiece model like Llama's: BPE, bytes, one space in front, no other change."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING_TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def train_byte_level() -> str:
    """Train a byte-level BPE like Llama 3's."""
    digits_and_words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    result = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(digits_and_words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    result.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    result.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True), trainer)
    special = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")
    result.add_special_tokens([f"<|{name}|>" for name in special])
    result.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    result.add_tokens([AddedToken("<|tool|>", special=False, normalized=False)])
    bos = ("<|begin_of_text|>", result.token_to_id("<|begin_of_text|>"))
    result.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    result.enable_truncation(64)  # as some checkpoints leave it behind; a reader must ignore it
    return result.to_str(pretty=False)


def load_sentencepiece(model: bytes, legacy: bool, marks: bool) -> Any:
    """Load a tokenizer.model in transformers, with the marks of ChatML added if asked."""
    size = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    tokens = ["<unk>", "<s>", "</s>", *[""] * (size - 3), *(TURN_MARKS if marks else [])]
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "added_tokens_decoder": {
            str(n): {"content": token, "special": True} for n, token in enumerate(tokens) if token
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.model").write_bytes(model)
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        return transformers.LlamaTokenizer.from_pretrained(folder)


def convert_model(model: bytes, legacy: bool, marks: bool = True) -> str:
    """Convert to the tokenizer.json that checkpoints of Mixtral (legacy) and Mistral carry.

    transformers 5.23 orders the merges of a tokenizer.model by id, which is wrong for Mixtral's
    runs of spaces; published files have them by score, as here.
    """
    result = load_sentencepiece(model, legacy, marks).backend_tokenizer
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(token) for token in range(processor.vocab_size())]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    scores = {piece: processor.get_score(token) for token, piece in enumerate(pieces)}
    result.model = models.BPE(
        vocabulary, generate_merges(vocabulary, scores), byte_fallback=True, fuse_unk=True
    )
    if legacy:
        result.pre_tokenizer = None
        result.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    result.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return result.to_str(pretty=False)


def load_json(source: str, **names: str) -> Any:
    """Load a tokenizer.json in transformers."""
    tokenizer = tokenizers.Tokenizer.from_str(source)
    tokenizer.no_truncation()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def record_texts(encode: Any, decode: Any) -> dict[str, Any]:
    """Ask for the ids of all texts, for the ids' texts, and for a checksum of a long text's ids."""
    ids = [encode(text) for text in TEXTS]
    long = encode("\n".join(TEXTS * LONG))
    return {
        "ids": ids,
        "decoded": [decode(some) for some in ids],
        "long": [len(long), crc32(" ".join(map(str, long)).encode())],
    }


def record_transformers(tokenizer: Any) -> dict[str, Any]:
    """Record a tokenizer of transformers; it is not asked to add BOS."""
    return record_texts(
        lambda text: tokenizer.encode(text, add_special_tokens=False),
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
    )


def record_sentencepiece(model: bytes) -> dict[str, Any]:
    """Record sentencepiece itself."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return record_texts(processor.encode, processor.decode)


def record_chat(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Record a conversation's ids."""
    source = (DATA / "templates" / template).read_text(encoding="utf-8")
    answer = tokenizer.apply_chat_template(
        messages, chat_template=source, add_generation_prompt=True, return_dict=True
    )
    return {"template": template, "messages": messages, "ids": answer["input_ids"]}


def main() -> None:
    """Write everything."""
    if "--train" in sys.argv:
        small = train_small_model()
        (DATA / "small.model").write_bytes(small)
        for name, legacy in (("small.json", True), ("small-first.json", False)):
            (DATA / name).write_text(convert_model(small, legacy), encoding="utf-8")
        (DATA / "byte-level.json").write_text(train_byte_level(), encoding="utf-8")
    mixtral, small = ((DATA / name).read_bytes() for name in ("mixtral.model", "small.model"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    of_mixtral = load_json(convert_model(mixtral, legacy=True, marks=False), **names)
    sources = {
        name: (DATA / name).read_text(encoding="utf-8")
        for name in ("small.json", "small-first.json", "byte-level.json")
    }
    of_small, of_first = (
        load_json(sources[n], **names) for n in ("small.json", "small-first.json")
    )
    of_bytes = load_json(
        sources["byte-level.json"], bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )
    legacy, later = (load_sentencepiece(mixtral, legacy, marks=True) for legacy in (True, False))
    goldens = {
        "versions": {m.__name__: m.__version__ for m in (sentencepiece, tokenizers, transformers)},
        "texts": TEXTS,
        "mixtral.model": {
            "sentencepiece": record_sentencepiece(mixtral),
            "transformers": record_transformers(of_mixtral),
        },
        "small.model": {"sentencepiece": record_sentencepiece(small)},
        "small.json": {"transformers": record_transformers(of_small)},
        "small-first.json": {"transformers": record_transformers(of_first)},
        "byte-level.json": {"transformers": record_transformers(of_bytes)},
        "chats": {
            "mixtral.model legacy": [
                record_chat(legacy, "mistral-v1.jinja", TURNS),
                record_chat(of_mixtral, "mistral-v1.jinja", SPACED),
                record_chat(legacy, "chatml.jinja", SYSTEM),
            ],
            "mixtral.model": [
                record_chat(later, "mistral-v1.jinja", TURNS),
                record_chat(later, "chatml.jinja", SYSTEM),
            ],
            "small.json": [
                record_chat(of_small, "mistral-v1.jinja", TURNS),
                record_chat(of_small, "chatml.jinja", SYSTEM),
            ],
            "small-first.json": [
                record_chat(of_first, "mistral-v1.jinja", SPACED),
                record_chat(of_first, "chatml.jinja", SYSTEM),
            ],
            "byte-level.json": [record_chat(of_bytes, "llama3.jinja", SYSTEM)],
        },
    }
    lines = json.dumps(goldens, ensure_ascii=True, separators=(",", ":")).replace("]],", "]],\n")
    (DATA / "goldens.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
