"""Keeps a text to a JSON schema, a regular expression or a grammar, token by token.

llguidance does the parsing; this module gives it a tokenizer and turns its answers into logits,
forced tokens and sentences. It is imported when a text first needs it (extra `json`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConfigError, escaped
from cpumix.extras import from_extra
from cpumix.tokenizer import Tokenizer

from .params import Grammar

# In JSON a space or an indented new line may stand between tokens, as models write them. Any white
# space would do for JSON, but then a text may go on with nothing else for ever.
JSON_OPTIONS = {"whitespace_pattern": r"( |\n[ \t]{0,20})", "lenient": False}

MAX_ITEMS = 2000  # places in an ambiguous grammar that a text may be at; llguidance's own bound


class Matcher:
    """Where a text stands in its grammar."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer, ends: Collection[int]) -> None:
        """Begin a text that may end with one of the tokens `ends`.

        Raises ConfigError when the package llguidance is missing, and for a grammar that it does
        not understand or cannot enforce.
        """
        library = _library()
        self._kind = grammar.kind
        self.json = grammar.kind == "json_schema"
        self.vocabulary = _vocabulary(tokenizer, frozenset(ends))
        try:
            compiled = KINDS[grammar.kind](library, grammar.source)
            fault = library.LLMatcher.validate_grammar(compiled, self.vocabulary.tokens)
        except ValueError as error:
            fault = str(error)
        if fault and not fault.startswith("WARNING"):
            raise ConfigError(
                f"{grammar.kind}: expected one that can be enforced, found: {_shorten(fault)}. "
                "Change that part."
            )
        limits = library.LLParserLimits(max_items_in_row=MAX_ITEMS, verbose_errors=False)
        self._matcher = library.LLMatcher(
            self.vocabulary.tokens, compiled, log_level=0, limits=limits
        )
        self._bits = np.empty((self.vocabulary.tokens.vocab_size + 31) // 32, np.uint32)

    def copy(self) -> Matcher:
        """Return another one that stands at the same place and goes its own way."""
        other = object.__new__(Matcher)
        other.__dict__.update(self.__dict__)
        other._matcher = self._matcher.deep_copy()
        return other

    def check(self) -> None:
        """Raise ConfigError if the text cannot be followed further, as the grammar is too big."""
        if self.failed:
            fault = _shorten(self._matcher.get_error())
            raise ConfigError(
                f"{self._kind}: expected one that can be followed to its end, found: {fault}. "
                "Simplify it."
            )

    @property
    def failed(self) -> bool:
        """Whether the text cannot be followed further."""
        return bool(self._matcher.is_error())

    def allowed(self) -> NDArray[np.uint32]:
        """Return a bit for each token that may come next; the array is the same each time."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        return self._bits

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Rule out, in logits (vocab_size,), the tokens that must not come next."""
        bits = np.unpackbits(self.allowed().view(np.uint8), bitorder="little")[: len(logits)]
        self.check()
        logits[len(bits) :] = -np.inf  # rows that a model has beyond its tokenizer
        np.copyto(logits[: len(bits)], -np.inf, where=bits == 0)

    def accept(self, token: int) -> bool:
        """Go on by a token; return whether it was one of those allowed."""
        return bool(self._matcher.consume_token(token))

    def takes(self, tokens: list[int]) -> bool:
        """Tell whether all of `tokens` may come next, one after the other."""
        return bool(self._matcher.validate_tokens(tokens) == len(tokens))

    def forced(self) -> list[int]:
        """Return the tokens that must come next whatever a model says, mostly none."""
        return list(self._matcher.compute_ff_tokens())

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether the text has to end here."""
        return bool(self._matcher.is_stopped())


class GrammarVocabulary:
    """A tokenizer as llguidance wants it, and the texts of its tokens."""

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        library = _library()
        self.printed = tokenizer.token_bytes
        # A model without an end of text gets one that is never drawn.
        wrapped = _Tokens(tokenizer, sorted(ends) or [len(self.printed)])
        self.tokens: Any = library.LLTokenizer(
            library.TokenizerWrapper(wrapped), eos_token=wrapped.ends
        )


class _Tokens:
    """The attributes that llguidance asks for; tokens that print nothing are special."""

    def __init__(self, tokenizer: Tokenizer, ends: list[int]) -> None:
        self.ends, self.eos_token_id, self.bos_token_id = ends, ends[0], tokenizer.bos_id
        count = max(tokenizer.vocab_size, ends[-1] + 1)
        printed = [*tokenizer.token_bytes, *[b""] * (count - tokenizer.vocab_size)]
        self.special_token_ids = [token for token, text in enumerate(printed) if not text]
        self.tokens = [text or b"<%d>" % token for token, text in enumerate(printed)]
        self._encode = tokenizer.encode_inside

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=2)  # 0.1 s and 3 MB for each
def _vocabulary(tokenizer: Tokenizer, ends: frozenset[int]) -> GrammarVocabulary:
    return GrammarVocabulary(tokenizer, ends)


def _library() -> Any:
    with from_extra("json", "structured output"):
        import llguidance
    return llguidance


def _compile_json_schema(library: Any, source: str) -> str:
    return str(library.LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS))


def _compile_regex(library: Any, source: str) -> str:
    return str(library.LLMatcher.grammar_from_regex(source))


def _compile_grammar(library: Any, source: str) -> str:
    return str(library.grammar_from("grammar", source))  # tells GBNF from Lark by itself


KINDS: dict[str, Callable[[Any, str], str]] = {
    "json_schema": _compile_json_schema,
    "regex": _compile_regex,
    "grammar": _compile_grammar,
}


def _shorten(fault: str) -> str:
    """Return a message of llguidance as one line of at most 200 characters."""
    return escaped(" ".join(fault.split()), 200)
