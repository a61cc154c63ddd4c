"""The order of texts: beginnings that they share are computed once, and none is too early."""

from __future__ import annotations

import random
import threading

import pytest

from cpumix.batch import relay as relays
from cpumix.batch.pieces import WrittenText
from cpumix.batch.relay import Group, Relay, common
from cpumix.batch.worker import Part
from cpumix.engine.sequence import Request
from cpumix.errors import ConfigError
from cpumix.sampling import Sampler, SamplingParams


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 130])
def test_common_beginning(length):
    a = list(range(200))
    b = a[:length] + [1000] * 70
    assert common(a, b) == common(b, a) == length
    assert common(a, a[:length]) == length


def test_groups_end_with_their_last_line():
    one, two, three = (piece(range(n)) for n in (3, 2, 1))
    group = Group([[one, two], [], [three]])
    assert group.pieces == [three, two, one]
    assert group.empty_lines == 1
    assert [group.end(one, None), group.end(three, ValueError("x")), group.end(two, None)] == [
        False,
        True,
        True,
    ]
    group.wait()
    assert [*group.errors] == [id(three)]
    Group([[], []]).wait()


def piece(ids, tokens=3):
    params = SamplingParams(temperature=0)
    return WrittenText(Request([*ids], tokens, Sampler(params), frozenset()))


def prompts(model, families, members, length, seed=0):
    """Return prompts of some families, mixed, each with a beginning of `length` in common."""
    rng = random.Random(seed)
    size = model.config.vocab_size

    def ids(count):
        return [rng.randrange(3, size) for _ in range(count)]

    heads = [ids(length) for _ in range(families)]
    made = [head + ids(5) for head in heads for _ in range(members)]
    rng.shuffle(made)
    return made


def relayed(model, texts, width):
    """Let texts be written; return the relay."""
    relay = Relay(model.engine, width)
    group = Group([[text] for text in texts])
    relay.add(group)
    group.wait()
    assert not group.errors
    return relay


@pytest.mark.parametrize("width", [1, 2, 5])
def test_shared_beginnings_are_computed_once(served, width):
    model = served.model
    model.engine.loop.call(model.engine.scheduler.prefix.clear)
    texts = [piece(ids) for ids in prompts(model, families=2, members=4, length=150)]
    counts = relayed(model, texts, width).counts
    assert (counts.lines, counts.written_tokens) == (8, 8 * 3)
    computed = counts.prompt_tokens - counts.cached_tokens
    # Of each family the first computes all; the others their own end, and of the beginning at most
    # what does not fill a block.
    assert computed <= 2 * 155 + 6 * (5 + 63)


def test_no_more_than_the_width_at_once(served, monkeypatch):
    model, most, running = served.model, 0, 0
    begin = WrittenText.begin

    def counted(self, engine, on_token, on_end):
        nonlocal most, running
        running += 1
        most = max(most, running)

        def ended(error):
            nonlocal running
            running -= 1
            on_end(error)

        begin(self, engine, on_token, ended)

    monkeypatch.setattr(WrittenText, "begin", counted)
    relayed(model, [piece(ids) for ids in prompts(model, 9, 1, 8)], width=3)
    assert most == 3


def test_texts_are_those_that_each_is_alone(served):
    model = served.model
    texts = [piece(ids, 6) for ids in prompts(model, families=3, members=3, length=90, seed=4)]
    relayed(model, texts, width=4)
    for text in texts:
        alone = model.generate_ids([*text.ids], 6)
        assert [token.id for token in text.choice.tokens] == alone


def test_close_ends_what_waits_and_what_is_written(make_worker):
    worker = make_worker(parallel=1)
    lines = [b'{"prompt": "Hello", "max_tokens": 400, "ignore_eos": true}'] * 3
    found: list[BaseException] = []

    def run():
        try:
            worker.run(Part(0, 0, lines))
        except ConfigError as error:  # pragma: no cover - which of them comes first
            found.append(error)
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not worker.counts.written_tokens:
        pass
    worker.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert "engine: expected it to go on" in str(found[0])


def test_added_after_the_end_ends_at_once(make_worker):
    worker = make_worker()
    worker.close()
    with pytest.raises(ConfigError, match="found it closed"):
        worker.run(Part(0, 0, [b'{"prompt": "Hello"}']))


def test_a_text_that_cannot_begin_has_its_error(served):
    text = piece([3, 4, 5])

    def refuse(engine, on_token, on_end):
        raise ConfigError("no")

    text.begin = refuse
    group = Group([[text]])
    relays.Relay(served.model.engine, 1).add(group)
    group.wait()
    assert str(group.errors[id(text)]) == "no"


def test_closing_tells_those_that_wait(served):
    relay = Relay(served.model.engine, 0)
    group = Group([[piece([3, 4])]])
    relay.add(group)
    relay.close()
    group.wait()
    (error,) = group.errors.values()
    assert "batch: closed before its end" in str(error)
