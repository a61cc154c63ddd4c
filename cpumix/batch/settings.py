"""What the answers of a batch depend on, besides the model and the lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cpumix.api.stamp import Stamp
from cpumix.sampling import SamplingParams

PLAIN_TOKENS = 256  # of plain prompts, as `cpumix run` has it
RESULT_FIELDS = (  # of the answers to plain prompts
    "generated_text",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "error",
)


@dataclass(frozen=True)
class Settings:
    """What the user has set; a line may say otherwise for itself."""

    context: int
    kv: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `SamplingParams` that were given."""
    seed: int = 0
    max_tokens: int | None = None
    """None: 256 of a plain prompt, else what OpenAI's API says."""
    raw: bool = False
    """Whether plain prompts go without the model's chat template."""
    system: str = ""
    """The system text of plain prompts."""
    chat_template: str | None = None

    def defaults(self, model: SamplingParams) -> SamplingParams:
        """Return the parameters of lines that do not set them; `model` are the model's own."""
        return replace(model, **self.sampling)

    def seed_of(self, key: str) -> int:
        """Return the seed of a line that has none: another one for each key."""
        return int.from_bytes(_digest(f"{self.seed}:{key}")[:6], "big")  # JavaScript reads 53 bits

    def to_dict(self) -> dict[str, Any]:
        """Return what is kept beside the parts of a job, under the names of options."""
        values = asdict(self)
        return values | dict(values.pop("sampling"))


class FixedStamp(Stamp):
    """Ids that depend on a key alone, and no time: a line that is done again says the same."""

    def __init__(self, key: str) -> None:
        self.created, self._key, self._count = 0, key, 0

    def identity(self, prefix: str) -> str:
        """Return another id."""
        self._count += 1
        return prefix + _digest(f"{self._key}:{self._count}").hex()[:24]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
