"""How byte-level BPE tokenizers split text before they merge, by the name that GGUF files give it.

`tokenizer.ggml.pre` names the model that a rule was first seen with. Each rule is a chain of
regular expressions: the first splits the text into what it matches and what lies between, the next
splits each of these pieces, and so on. Expressions are those of the models' own `tokenizer.json`.

Source: https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp (names, and which rule).
"""

from __future__ import annotations

from typing import NamedTuple


class PreTokenizer(NamedTuple):
    """A chain of patterns, and what else a name says."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """Whether a piece that is a token is taken whole, however it would merge."""
    adds_bos: bool = False
    """Whether texts start with BOS if the file does not say."""


def _any(*alternatives: str) -> str:
    """Return the expression that takes the first alternative that matches."""
    return "|".join(alternatives)


_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_DIGIT, _DIGITS, _THREE_DIGITS = r"\p{N}", r"\p{N}+", r"\p{N}{1,3}"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_LINES = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"
_END = _any(_SIGNS + r"[\r\n]*", _LINES, _SPACES)  # of most rules
_GPT2 = _any("'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", _SIGNS, _SPACES)
_LLAMA3 = _any(_ENDINGS, _WORD, _THREE_DIGITS, _END)
_QWEN2 = _any(_ENDINGS, _WORD, _DIGIT, _END)
_QWEN35 = _any(
    _ENDINGS,
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    _DIGIT,
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    _LINES,
    _SPACES,
)
_MINICPM5 = _any(_ENDINGS, _WORD, _DIGITS, _END)
_SEED_CODER = _any(_ENDINGS, _WORD, _DIGIT, r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _SPACES)
_BAILINGMOE = _any(
    "'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    _DIGIT,
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"\s*[\r\n]",
    _SPACES,
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*"
_PATHS = _any(_SIGNS + r"[\r\n/]*", _LINES, _SPACES)
_TEKKEN = _any(_CASED, _CAPITALS, _DIGIT, _PATHS)
_GPT4O = _any(_CASED + _ENDINGS + "?", _CAPITALS + _ENDINGS + "?", _THREE_DIGITS, _PATHS)
_LETTERS = (  # of scripts with upper and lower case
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-"
    "\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-"
    "\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    r"\s?[" + _LETTERS + "]+",
    r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _EAST_ASIAN,
    _DIGITS,
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, _DIGIT)
_DEEPSEEK_V3 = (
    _THREE_DIGITS,
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    _any(
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _LINES,
        _SPACES,
    ),
)
_BLOOM = r" ?[^(\s|.,!?" + "\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_OLD = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, _DIGITS, "[0-9][0-9][0-9]")


def _named(names: str, rule: PreTokenizer) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), rule)


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_named("default", PreTokenizer(_OLD)),  # what was taken for all before there were names
    **_named(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        PreTokenizer((_LLAMA3,), ignore_merges=True, adds_bos=True),
    ),
    **_named("dbrx smaug-bpe chatglm-bpe", PreTokenizer((_LLAMA3,))),
    **_named("glm4 glm5", PreTokenizer((_LLAMA3,), ignore_merges=True)),
    **_named("tekken", PreTokenizer((_TEKKEN,), ignore_merges=True, adds_bos=True)),
    **_named("gpt-4o llama4 kanana2", PreTokenizer((_GPT4O,))),
    **_named(
        "qwen2 deepseek-r1-qwen stablelm2 megrez kormo hunyuan solar-open grok-2",
        PreTokenizer((_QWEN2,)),
    ),
    **_named("qwen35", PreTokenizer((_QWEN35,))),
    **_named("minicpm5", PreTokenizer((_THREE_DIGITS, _MINICPM5), ignore_merges=True)),
    **_named("seed-coder", PreTokenizer((_SEED_CODER,))),
    **_named("bailingmoe bailingmoe2 llada-moe", PreTokenizer((_BAILINGMOE,))),
    **_named("deepseek-llm", PreTokenizer(_DEEPSEEK_LLM)),
    **_named("deepseek-coder", PreTokenizer(_DEEPSEEK_CODER)),
    **_named("deepseek-v3 hunyuan-dense", PreTokenizer(_DEEPSEEK_V3)),
    **_named(
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
        PreTokenizer((_DIGIT, _GPT2)),
    ),
    **_named(
        "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4",
        PreTokenizer((_GPT2,)),
    ),
    **_named("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    **_named("bloom poro-chat gpt3-finnish", PreTokenizer((_BLOOM,))),
    **_named("viking", PreTokenizer((_BLOOM, _DIGIT))),
    **_named("superbpe", PreTokenizer((_DIGITS, r"(?=(\d{3})+(?!\d))"))),
}
