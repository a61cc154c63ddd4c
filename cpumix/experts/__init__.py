"""Experts in memory: which are, which go, and how the next ones come from the file in time."""

from .budget import Budget
from .counters import Counters
from .low_copies import find_low_copies, take_low_copies
from .pager import ExpertPager
from .trace import Trace
from .views import Expert, as_matrix, view

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
