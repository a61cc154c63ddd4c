"""Rounds weights for the inputs that they will have: GPTQ, while a checkpoint is converted.

`text` gives tokens, `stream` takes them through the model, `moments` sums up what matrices read,
`matrix` rounds one, `walk` does all of this layer by layer. The arithmetic of rounding is defined
in `quant.compensate`.
"""

from __future__ import annotations

from .calibration import Calibration

__all__ = ["Calibration"]
