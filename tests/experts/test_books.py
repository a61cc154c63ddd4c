"""The pager's arithmetic: who goes next, what is in memory, how much may be."""

from __future__ import annotations

import numpy as np
import pytest

from cpumix.errors import BudgetError
from cpumix.experts import Budget, Counters
from cpumix.experts.budget import ARRIVAL_MARGIN
from cpumix.experts.eviction import HALF_LIFE, EvictionPolicy
from cpumix.experts.resident_set import ResidentSet
from cpumix.experts.views import FileRange
from cpumix.machine import MachineInfo
from cpumix.measure.random_model import mixtral_8x7b
from cpumix.memory.limit import find_ceiling, make_budget
from cpumix.memory.planner import make_plan
from cpumix.quant.precision import CODED
from cpumix.units import GIB, MIB


def one(*experts: int) -> np.ndarray:
    return np.array([experts], np.int32)


# who goes next


def test_least_used_goes_first():
    policy = EvictionPolicy(1, 3)
    for expert in (0, 0, 1, 2, 2):
        policy.use(0, one(expert))
    assert policy.least([(0, 0), (0, 1), (0, 2)]) == (0, 1)
    assert policy.least([(0, 0), (0, 2)]) == (0, 0), "as often, but longer ago"


def test_later_uses_count_more():
    policy = EvictionPolicy(1, 2, half_life=1.0)
    for expert in (0, 0, 0, 1):
        policy.use(0, one(expert))
    assert policy.least([(0, 0), (0, 1)]) == (0, 0)


def test_of_equals_the_one_used_last_goes():
    policy = EvictionPolicy(3, 2)
    for layer in range(3):
        policy.use(layer, one(0))
    assert policy.least([(0, 0), (1, 0), (2, 0)]) == (2, 0)


def test_short_prompt_scores_like_its_tokens_one_by_one():
    first = np.random.default_rng(1).integers(0, 8, (int(HALF_LIFE), 1)).astype(np.int32)
    routing = np.hstack([first, (first + 3) % 8])
    together, apart = EvictionPolicy(1, 8), EvictionPolicy(1, 8)
    together.use(0, routing)
    for row in routing:
        apart.use(0, row[None])
    for policy in (together, apart):
        policy.use(0, one(3, 4))
    np.testing.assert_allclose(together._scores, apart._scores, rtol=1e-9)


def test_long_prompt_takes_half_of_what_was_known_and_no_more():
    policy = EvictionPolicy(1, 4)
    for _ in range(1000):
        policy.use(0, one(0))
    before = policy._scores[0, 0]
    policy.use(0, np.full((512, 1), 1, np.int32))
    assert policy._scores[0, 0] == pytest.approx(before / 2)
    assert policy._scores[0, 1] == pytest.approx(before / 2)


# what is in memory


@pytest.fixture
def shelf():
    """Four experts of 10 bytes, room for two."""
    places = {(0, e): FileRange(10 * e, 10, 6) for e in range(4)}
    shelf = ResidentSet(places, EvictionPolicy(1, 4))
    shelf.room = 20
    return shelf


def bring(shelf: ResidentSet, expert: int) -> None:
    shelf.reserve((0, expert))
    shelf.arrive((0, expert), 10)


def test_room_is_made_by_those_that_may_leave(shelf):
    for expert in (0, 1):
        assert shelf.make_room(10, ()) == []
        bring(shelf, expert)
    assert shelf.make_room(10, {(0, 0)}) == [FileRange(10, 10, 6)]
    assert (shelf.present, shelf.taken, shelf.evictions) == ({(0, 0)}, 10, 1)


def test_nothing_leaves_when_that_would_not_be_enough(shelf):
    bring(shelf, 0)
    bring(shelf, 1)
    assert shelf.make_room(20, {(0, 0)}) is None
    assert shelf.present == {(0, 0), (0, 1)}


def test_what_is_being_read_stays(shelf):
    shelf.reserve((0, 0))
    shelf.reserve((0, 1))
    assert shelf.make_room(10, ()) is None
    assert shelf.taken == 20


def test_remains_of_a_broken_read_go_first_and_help_when_read_again(shelf):
    bring(shelf, 0)
    shelf.reserve((0, 1))
    shelf.arrive((0, 1), 4)
    assert (shelf.present, shelf.taken, shelf.missing) == ({(0, 0)}, 20, 6)
    shelf.reserve((0, 1))
    assert (shelf.taken, shelf.missing) == (20, 0)
    shelf.arrive((0, 1), 4)
    assert shelf.make_room(10, ()) == [FileRange(10, 10, 6)]
    assert shelf.present == {(0, 0)}
    assert shelf.evictions == 0


def test_what_the_system_took_is_no_longer_present(shelf):
    for expert in range(4):
        bring(shelf, expert)
    shelf.lose((0, 2))
    assert shelf.present == {(0, 0), (0, 1), (0, 3)}
    assert shelf.taken == 40


# how much may be


def test_budget_is_what_the_rest_of_the_process_leaves():
    rss = [300 * MIB]
    budget = Budget(1 << 30, 10 * MIB, 64 * MIB, MIB, 200 * MIB, memory=lambda: rss[0])
    # 300 resident of which 100 experts; the whole cache and one row are still to come
    assert budget.room(100 * MIB, 1, 0.0) == (1024 - 200 - 64 - 1) * MIB - ARRIVAL_MARGIN
    # half of the cache has come, and 9 rows more will
    assert budget.room(100 * MIB, 10, 0.5) == (1024 - 200 - 32 - 9) * MIB - ARRIVAL_MARGIN
    assert budget.room(100 * MIB, 10, 1.0) == (1024 - 200) * MIB - ARRIVAL_MARGIN
    rss[0] = 2 << 30
    assert budget.room(0, 1, 1.0) == 10 * MIB, "never less than one token needs"


def test_experts_that_the_system_took_unseen_make_no_room():
    rss = [300 * MIB]
    budget = Budget(1 << 30, 0, memory=lambda: rss[0])
    before = budget.room(200 * MIB, 1, 1.0)
    rss[0] = 150 * MIB
    assert budget.room(200 * MIB, 1, 1.0) == before


def test_budget_expects_the_program_to_grow_before_the_first_pass():
    budget = Budget(1 << 30, 0, startup_bytes=250 * MIB, memory=lambda: 100 * MIB)
    assert budget.room(0, 0, 0.0) == (1024 - 250) * MIB - ARRIVAL_MARGIN


def machine(ram: int, available: int | None = None, group: int | None = None) -> MachineInfo:
    return MachineInfo(ram, ram if available is None else available, group, 2, 4096)


@pytest.mark.parametrize(
    ("ram", "computer", "expected", "note"),
    [
        (None, machine(64 * GIB), 48 * GIB, None),
        (None, machine(64 * GIB, group=16 * GIB), 12 * GIB, None),
        ("20G", machine(64 * GIB), 20 * GIB, None),
        ("64G", machine(64 * GIB), 64 * GIB, None),
        ("20G", machine(64 * GIB, group=16 * GIB), 16 * GIB, "20.0 GiB asked for, but this"),
        (None, machine(64 * GIB, 10 * GIB), 10 * GIB, "other programs leave 10.0 GiB of 64.0 GiB"),
        (None, machine(64 * GIB, 1 * GIB), 4 * GIB, "using 4.0 GiB. Set --ram to change it"),
    ],
)
def test_ceiling(ram, computer, expected, note):
    ceiling = find_ceiling(ram, computer, minimum=4 * GIB)
    assert ceiling.nbytes == expected
    assert note is None if ceiling.note is None else note in ceiling.note


def test_no_budget_where_everything_fits():
    config, level = mixtral_8x7b(), CODED
    assert make_budget(config, level, 4096, "f16", None, machine(64 * GIB))[:2] == (None, None)
    budget, _, _ = make_budget(config, level, 4096, "f16", None, machine(32 * GIB))
    assert budget is not None
    assert budget.ceiling == 24 * GIB


def test_refusal_names_the_smallest_size_that_works():
    config, level = mixtral_8x7b(), CODED
    with pytest.raises(BudgetError, match=r"Use --ram (\d+)M or more") as caught:
        make_budget(config, level, 4096, "f16", "2G", machine(64 * GIB))
    words = str(caught.value).split()
    size = words[words.index("--ram") + 1]
    budget, _, _ = make_budget(config, level, 4096, "f16", size, machine(64 * GIB))
    assert budget is not None
    with pytest.raises(BudgetError):
        less = f"{int(size[:-1]) - 1}M"
        make_budget(config, level, 4096, "f16", less, machine(64 * GIB))
    assert make_plan(config, level, 4096, 64 * GIB).minimum_bytes <= budget.ceiling


# what is counted

FIELDS = (
    "hits misses bytes_read read_seconds wait_seconds evictions predicted predicted_used "
    "budget_bytes peak_resident_bytes"
).split()


def test_counters_have_the_documented_names_and_subtract():
    now = Counters(10, 5, 1000, 2.0, 0.5, 3, 4, 2, 700, 600)
    assert list(now.to_dict()) == FIELDS
    since = now.since(Counters(4, 1, 100, 0.5, 0.25, 1, 1, 1, 900, 200))
    assert since == Counters(6, 4, 900, 1.5, 0.25, 2, 3, 1, 700, 600)


def test_summary_says_what_was_hidden():
    text = Counters(30, 10, 5 * 10**9, 4.0, 1.0, 8, 6, 3, 2 << 30, 1 << 30).summary()
    assert "30 hits, 10 misses (75 % hits)" in text
    assert "1.0 GiB of experts at most, of a budget of 2.0 GiB; 8 given back" in text
    assert "read in 4.00 s (1.25 GB/s): 3.00 s hidden behind computing, 1.00 s waited for" in text
    assert "3 of 6 guesses used" in text
    assert "guesses" not in Counters(1, 0).summary()
