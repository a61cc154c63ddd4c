"""What a config.json says of RoPE: its base, and how it is stretched.

transformers 5 has all of it in `rope_parameters`; older files have the base in `rope_theta` and the
rest in `rope_scaling`. Source: transformers 5.23, modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConfigError, quoted

from .rope_scaling import SCALINGS, yarn_attention_factor
from .values import positive, shown, whole

ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_LENGTH = "original_max_position_embeddings"
# Parts by kind that must be there, and all that may be; those of another kind say nothing.
_NEEDED = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (),
}
_KNOWN = frozenset(
    """
    attention_factor beta_fast beta_slow factor finetuned high_freq_factor low_freq_factor mscale
    mscale_all_dim original_max_position_embeddings rope_theta rope_type truncate type
    """.split()
)


def read_rope(
    config: Mapping[str, Any], made: Mapping[str, Any], where: str
) -> tuple[dict[str, Any] | None, Any]:
    """Return how RoPE is stretched, as `rope_scaling.from_dict` reads it, and its base if given.

    `made` has our fields so far. Raises ConfigError for what cpumix does not run.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ConfigError(
            f"{where}: rope_scaling: expected an object or null, found {shown(rope)}. "
            'Use --ignore-field "rope_scaling" for a model that is run within its trained context.'
        )
    theta = config.get("rope_theta") if rope.get("rope_theta") is None else rope["rope_theta"]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise ConfigError(
            f"{where}: rope_scaling: cpumix runs the types {', '.join(_NEEDED)}, "
            f"found {shown(kind)}. "
            'Use --ignore-field "rope_scaling" for a model that is run within its trained context.'
        )
    for name, value in rope.items():
        _check_part(name, value, where)
    missing = [name for name in _NEEDED[kind] if rope.get(name) is None]
    if missing:
        raise ConfigError(
            f"{where}: rope_scaling: expected the parts {', '.join(_NEEDED[kind])} with {kind}, "
            f"found no {', '.join(missing)}. Correct it in that file."
        )
    length = config.get(_LENGTH) or rope.get(_LENGTH) or made["max_position_embeddings"]
    return _scaling(kind, rope, length, made, f"{where}: rope_scaling"), theta


def _check_part(name: str, value: Any, where: str) -> None:
    """Raise ConfigError for a part that is not known and switches something on."""
    if name == "partial_rotary_factor" and value not in (None, 1):
        raise ConfigError(
            f"{where}: rope_scaling: {name}: cpumix runs only 1, found {shown(value)}. "
            "Convert a checkpoint that turns all of a head."
        )
    if name not in _KNOWN and name != "partial_rotary_factor" and value:
        raise ConfigError(
            f"{where}: rope_scaling: a part unknown to cpumix that may change the result, "
            f"found {quoted(name)}. If you know that it does not matter here, use "
            f"--ignore-field {quoted('rope_scaling.' + name)}."
        )


def _scaling(
    kind: str, rope: Mapping[str, Any], length: Any, made: Mapping[str, Any], where: str
) -> dict[str, Any] | None:
    """Return the parameters of one kind; None where they change nothing."""
    if kind == "default":
        return None
    if kind == "llama3":
        return {name: rope[name] for name in _NEEDED[kind]} | {_LENGTH: length}
    if kind != "yarn":
        changes = positive(rope["factor"], "factor", where) != 1
        return {"kind": kind, "factor": rope["factor"]} if changes else None
    length = whole(length, _LENGTH, where)
    factor = rope.get("factor")
    if factor is None:
        most = whole(made["max_position_embeddings"], "max_position_embeddings", where)
        factor = most / length
    factor = positive(factor, "factor", where)
    scales = (
        None if rope.get(name) is None else positive(rope[name], name, where)
        for name in ("mscale", "mscale_all_dim")
    )
    attention = rope.get("attention_factor")
    if attention is None:
        attention = yarn_attention_factor(factor, *scales)
    return {
        "kind": kind,
        "factor": factor,
        _LENGTH: length,
        "beta_fast": rope.get("beta_fast") or 32.0,
        "beta_slow": rope.get("beta_slow") or 1.0,
        "attention_factor": attention,
        "truncate": rope.get("truncate", True),
    }


assert _NEEDED.keys() == {"default", *SCALINGS}
