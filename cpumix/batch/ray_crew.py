"""The parts of a batch answered by Ray actors: one on each node, with all its processors.

An actor that dies, with its node or alone, loses only time: its parts are given to another, and a
new actor begins where the node lives. Nodes that join get an actor, too. Nothing else of a batch
asks for processors, so that no task of it can wait for ever for those that the actors have.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cpumix.errors import ConfigError, CpumixError, escaped

from .ray_actor import ModelSource, Opened, RayWorker
from .ray_nodes import needed_bytes, usable_nodes
from .relay import Counts
from .settings import Settings
from .worker import PARTS_AT_ONCE, Answered, ModelOptions, Part

LOOK_AROUND = 2.0  # seconds between two looks at which nodes there are
PATIENCE = 15.0  # seconds that an actor may wait for its processors before that is told
MOST_FAILURES = 3  # of a node, in a row, before it is left alone

Say = Callable[[str], None]


@dataclass(eq=False)
class Member:
    """An actor, and what it was given."""

    node: str
    place: str
    """The address of its node."""
    cpus: float
    actor: Any
    began: float = field(default_factory=time.monotonic)
    starting: Any = None
    opening: Any = None
    opened: Opened | None = None
    told: bool = False
    parts: dict[Any, Part] = field(default_factory=dict)  # by the reference to what comes of them
    asked: Any = None
    counts: Counts = field(default_factory=Counts)
    answered: int = 0
    """Lines of parts that are done."""

    @property
    def waits_for(self) -> list[Any]:
        """References to what is to come."""
        return [ref for ref in (self.starting, self.opening, self.asked, *self.parts) if ref]


class RayCrew:
    """Actors on the nodes of a cluster, as they come and go."""

    def __init__(
        self,
        options: ModelOptions,
        settings: Settings,
        address: str = "",
        actors: int = 1,
        say: Say = lambda note: None,
    ) -> None:
        """Connect to a cluster; without an address to the one here, or else to a new one here.

        Raises ConfigError if there is none at the address.
        """
        self._options, self._settings, self._actors, self._say = options, settings, actors, say
        self._memory = needed_bytes(options, settings.context, settings.kv)
        self._is_ours = connect(address)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        make_source = ray.remote(ModelSource).options(num_cpus=0, scheduling_strategy=here)
        self._source = make_source.remote(options.path)
        self.members: list[Member] = []
        self._waiting: deque[Part] = deque()  # parts whose actor has died
        self._failures: Counter[str] = Counter()  # by node
        self._last_error: BaseException | None = None
        self._looked = 0.0
        self._lost = Counts()  # what actors had done that are gone
        self._look_around()

    @property
    def free(self) -> int:  # noqa: D102
        room = sum(PARTS_AT_ONCE - len(member.parts) for member in self.members if member.opened)
        return room - len(self._waiting)

    @property
    def counts(self) -> Counts:
        """What has been done so far, as far as it was heard of."""
        found = self._lost
        for member in self.members:
            known = member.counts
            lines = max(known.lines, member.answered)
            found = found.plus(Counts(lines, *_tokens(known)))
        return found

    def give(self, part: Part) -> None:  # noqa: D102
        self._waiting.append(part)
        self._hand_out()

    def take(self, seconds: float) -> list[Answered]:  # noqa: D102
        if time.monotonic() - self._looked > LOOK_AROUND:
            self._look_around()
        self._hand_out()
        by_ref = {ref: member for member in self.members for ref in member.waits_for}
        if not by_ref:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait([*by_ref], num_returns=1, timeout=seconds, fetch_local=False)
        found = [self._hear(by_ref[ref], ref) for ref in ready]
        return [answered for answered in found if answered is not None]

    def close(self) -> None:
        """End all actors, and the cluster if it was begun here."""
        for member in self.members:
            ray.kill(member.actor)
        ray.kill(self._source)
        if self._is_ours:
            ray.shutdown()

    def _hand_out(self) -> None:
        """Give parts that wait to those who have least to do."""
        opened = [member for member in self.members if member.opened]
        while self._waiting and opened:
            member = min(opened, key=lambda member: len(member.parts))
            if len(member.parts) >= PARTS_AT_ONCE:
                return
            part = self._waiting.popleft()
            member.parts[member.actor.run.remote(part)] = part

    def _hear(self, member: Member, ref: Any) -> Answered | None:
        """Take what has come for a reference."""
        try:
            value = ray.get(ref)
        except RayActorError as error:
            self._lose(member, error)
            return None
        except RayTaskError as error:
            self._lose(member, error.cause if isinstance(error.cause, Exception) else error)
            return None
        if ref == member.starting:
            member.starting, member.opening = None, member.actor.open.remote(self._source)
        elif ref == member.opening:
            member.opening, member.opened = None, value
            for note in value.notes:
                self._say(f"{member.place}: {note}")
        elif ref == member.asked:
            member.asked, member.counts = None, value
        else:
            part = member.parts.pop(ref)
            member.answered += len(part.lines)
            self._failures[member.node] = 0
            answered: Answered = value
            member.counts = answered.counts
            return answered
        return None

    def _lose(self, member: Member, error: BaseException) -> None:
        """Take an actor from the crew; what it was given is given to others."""
        if member not in self.members:
            return
        self.members.remove(member)
        self._waiting.extendleft(reversed(member.parts.values()))
        self._lost = self._lost.plus(Counts(member.answered, *_tokens(member.counts)))
        ray.kill(member.actor)
        self._failures[member.node] += 1
        self._last_error = error
        told = escaped(str(error).partition("\n")[0], 300)
        self._say(f"{member.place}: an actor is gone, its parts are done elsewhere. {told}")
        self._looked = 0.0

    def _look_around(self) -> None:
        """Begin actors where there are too few, and say which of them have to wait."""
        self._looked = time.monotonic()
        here = Counter(member.node for member in self.members)
        able = [node for node in usable_nodes() if self._failures[node["NodeID"]] < MOST_FAILURES]
        if not able and not self.members:
            raise self._hopeless()
        for node in able:
            for _ in range(self._actors - here[node["NodeID"]]):
                self._begin(node)
        for member in self.members:
            if member.opened and member.asked is None:
                member.asked = member.actor.counts.remote()
            waited = time.monotonic() - member.began
            if member.starting is not None and not member.told and waited > PATIENCE:
                member.told = True
                self._say(f"{member.place}: an actor waits for {member.cpus:g} free processors")

    def _begin(self, node: dict[str, Any]) -> None:
        """Begin an actor with its share of a node: whole processors, and at most all its memory."""
        resources = node["Resources"]
        cpus = resources["CPU"] / self._actors
        cpus = int(cpus) if cpus >= 1 else cpus
        room = int(resources.get("memory", self._memory) / self._actors)
        options = self._options
        if room < self._memory:  # the pager keeps to what there is
            options = replace(options, ram=room)
        actor = (
            ray.remote(RayWorker)
            .options(
                num_cpus=cpus,
                memory=min(self._memory, room),
                max_concurrency=PARTS_AT_ONCE + 1,  # and one that counts
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(options, self._settings, self._actors)
        )
        place = node.get("NodeManagerAddress", node["NodeID"])
        member = Member(node["NodeID"], place, cpus, actor, starting=actor.__ray_ready__.remote())
        self.members.append(member)

    def _hopeless(self) -> CpumixError:
        if isinstance(self._last_error, CpumixError):
            return self._last_error
        found = "none" if self._last_error is None else f"that each fails: {self._last_error}"
        return ConfigError(
            f"--ray: expected a node that can run the model, found {escaped(found, 400)}. Start one"
            " with `ray start`; what is done is kept."
        )


def connect(address: str) -> bool:
    """Connect to a cluster, or begin one here; return whether it was begun by us.

    Raises ConfigError if there is none at the address.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        ray.init(
            address=address or None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--ray: expected a cluster at {escaped(address or 'this machine')}, found none "
            f"({escaped(error, 200)}). Start one with `ray start --head`; if it asks for a token, "
            "set RAY_AUTH_MODE=token."
        ) from error
    return True


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _tokens(counts: Counts) -> tuple[int, int, int]:
    return counts.prompt_tokens, counts.cached_tokens, counts.written_tokens
