"""/v1/embeddings and /classify: texts that are read, from HTTP to the compute thread and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cpumix.api.body import decode
from cpumix.api.errors import failure
from cpumix.api.readings import Classified, Embedded
from cpumix.engine.job import Floats
from cpumix.engine.mailbox import Mailbox
from cpumix.engine.phase import Phase, Watch
from cpumix.engine.reading import Reading

from .leaving import while_connected
from .service import Service
from .wire import read_body, warnings

Asked = Embedded | Classified
Found = Floats | BaseException


class Readings:
    """The texts of one request; they take one place together.

    The engine knows of a few of them at a time, so that a long list lets others in between.
    `close` ends those under way at the next layer, and gives the place back.
    """

    def __init__(self, service: Service, asked: Asked, salt: bytes) -> None:
        """Take a place. Raises ApiError (429) when there is none, 503 without an engine."""
        service.check_alive()
        self._service, self._asked, self._salt = service, asked, salt
        self.prompt_tokens = sum(map(len, asked.prompts))
        service.admission.check(1, self.prompt_tokens)
        self._ticket = service.admission.enter(self.prompt_tokens)
        self._jobs: dict[int, Reading] = {}
        self._cached = 0
        self._watches: list[Watch] = []
        self._ends, self._began = Mailbox[tuple[int, Found]](), time.monotonic()
        self._finished = False

    @property
    def counts(self) -> dict[str, int]:
        """What the log tells of the tokens."""
        return {"prompt_tokens": self.prompt_tokens}

    @property
    def phases(self) -> list[tuple[Phase, dict[str, str | int]]]:
        """What the texts have gone through, all together."""
        watches, now = self._watches, time.perf_counter()
        asked = min((watch.asked for watch in watches), default=now)
        began = min((watch.began or now for watch in watches), default=now)
        read = max((watch.read or now for watch in watches), default=now)
        counts: dict[str, str | int] = {
            "gen_ai.usage.input_tokens": self.prompt_tokens,
            "cpumix.texts": len(self._asked.prompts),
        }
        return [(Phase("queue", asked, began), {}), (Phase("prompt", began, read), counts)]

    async def all(self) -> list[Floats]:
        """Wait for all texts; raises ApiError if one cannot be read."""
        engine, prompts = self._service.model.engine, self._asked.prompts
        waiting, found = iter(enumerate(prompts)), dict[int, Floats]()
        while len(found) < len(prompts):
            for index, ids in islice(waiting, self._service.model.parallel - len(self._jobs)):
                teller = self._teller(index)
                self._jobs[index] = engine.read(ids, self._asked.pooling, teller, self._salt)
                self._watches.append(self._jobs[index].watch)
            index, one = await self._ends.get()
            job = self._jobs.pop(index)
            if isinstance(one, BaseException):
                self._finished = True
                self._service.metrics.finished("error")
                raise failure(one, engine.loop.alive) from one
            self._cached += job.cached
            found[index] = one
        self._finished = True
        _, (read, _) = self.phases
        self._ticket.begin(read.ended - read.began, self._cached)
        self._service.metrics.read(self.prompt_tokens, time.monotonic() - self._began)
        return [found[index] for index in range(len(prompts))]

    def close(self) -> None:
        """End what is under way; a second time does no harm."""
        self._ticket.leave()
        for job in self._jobs.values():
            self._service.model.engine.loop.cancel(job)
        self._jobs = {}
        if not self._finished:
            self._finished = True
            self._service.metrics.finished("cancelled")

    def _teller(self, index: int) -> Callable[[Found], None]:
        def tell(found: Found) -> None:  # on the compute thread
            self._ends.put((index, found))

        return tell


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""

    async def embeddings(request: Request) -> Response:
        return await answer(service, request, Embedded)

    async def classify(request: Request) -> Response:
        return await answer(service, request, Classified)

    return [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/classify", classify, methods=["POST"]),
    ]


async def answer(
    service: Service, request: Request, kind: type[Embedded] | type[Classified]
) -> Response:
    """Read a request's texts, and answer."""
    fields, unknown = decode(await read_body(request), kind.kind)
    make: Callable[..., Asked] = kind
    asked = await while_connected(request.receive, service.prepare(make, service, fields))
    readings = Readings(service, asked, request.scope.get("cpumix.salt", b""))
    request.scope["cpumix.work"] = readings
    try:
        found = await while_connected(request.receive, readings.all())
    finally:
        readings.close()
    # Millions of numbers to write: not on the event loop.
    body = await service.prepare(lambda: msgspec.json.encode(asked.whole(found)))
    return Response(body, media_type="application/json", headers=warnings(unknown))
