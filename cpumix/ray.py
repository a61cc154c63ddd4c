"""Ray Data: `generate` for a dataset of prompts, and `Generate` for its `map_batches`.

Needs the extra `ray`, and Ray's own `ray[data]`.
"""

from __future__ import annotations

from cpumix.batch.ray_data import Generate, generate

__all__ = ["Generate", "generate"]
