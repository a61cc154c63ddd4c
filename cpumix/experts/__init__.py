"""Experts in memory: which are, which go, and how the next ones come from the file in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpumix.lazy import names_in

if TYPE_CHECKING:
    from .budget import Budget as Budget
    from .counters import Counters as Counters
    from .low_copies import find_low_copies as find_low_copies
    from .low_copies import take_low_copies as take_low_copies
    from .pager import ExpertPager as ExpertPager
    from .trace import Trace as Trace
    from .views import Expert as Expert
    from .views import as_matrix as as_matrix
    from .views import view as view

__all__ = [
    "Budget",
    "Counters",
    "Expert",
    "ExpertPager",
    "Trace",
    "as_matrix",
    "find_low_copies",
    "take_low_copies",
    "view",
]
__getattr__ = names_in(
    __name__,
    {
        "Budget": "budget",
        "Counters": "counters",
        "Expert": "views",
        "ExpertPager": "pager",
        "Trace": "trace",
        "as_matrix": "views",
        "find_low_copies": "low_copies",
        "take_low_copies": "low_copies",
        "view": "views",
    },
)
