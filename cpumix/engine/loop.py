"""The compute thread: takes many jobs through one model, step by step.

All that touches the model, the KV cache and the scheduler happens here; other threads leave
commands and get events. Between models of one process the steps take turns: numba's pools do not
bear two.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from cpumix.errors import ConfigError
from cpumix.kernels.backend import Backend
from cpumix.kernels.compile.jit import computing
from cpumix.transformer.batch import Batch
from cpumix.transformer.forward import Transformer

from .job import Job
from .scheduler import Scheduler, Share

T = TypeVar("T")
LONG_ROWS = 32  # steps of more rows end early when somebody comes or leaves


class _Abandon(Exception):
    """The step under way is of no use any more."""


class EngineLoop:
    """Runs until closed; the thread starts with the first job."""

    def __init__(self, transformer: Transformer, scheduler: Scheduler, backend: Backend) -> None:
        self._transformer, self._scheduler, self._backend = transformer, scheduler, backend
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # of starting and closing
        self._closed, self._process = False, os.getpid()
        self._shares: list[Share] = []  # of the step under way
        self._rows, self._may_abandon = 0, True
        self._cancelled = False  # a job of the step under way
        self.error: BaseException | None = None
        """What ended the thread, if anything did."""
        self.steps = 0
        self.on_step: Callable[[int], None] | None = None
        """Gets the rows of each step that was done."""

    # from any thread

    def submit(self, job: Job, make_room: Callable[[], object]) -> None:
        """Let a job be done, after `make_room` between two steps; its events tell how it goes.

        Raises ConfigError if it cannot begin.
        """

        def start() -> None:
            make_room()
            self._scheduler.add(job)

        self._command(start)

    def cancel(self, job: Job) -> None:
        """End a job at the next layer, or before it begins; harmless if it has ended."""
        job.cancelled = self._cancelled = True
        if not self._closed:
            self._commands.put(lambda: None)  # wake up

    def call_soon(self, function: Callable[[], object]) -> None:
        """Run a function on the compute thread, between two steps."""
        self._command(lambda: (function(), None)[1])

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the compute thread, between two steps, and return what it returns."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    with computing:
                        future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        self._command(run)
        return future.result()

    @property
    def alive(self) -> bool:
        """Whether jobs are or will be done."""
        return not self._closed and self.error is None

    def close(self) -> None:
        """Cancel all jobs and end the thread; returns when it has ended."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._commands.put(lambda: None)
        if thread is not None and os.getpid() == self._process:
            if thread is not threading.current_thread():
                thread.join()

    def _command(self, command: Callable[[], None]) -> None:
        with self._lock:
            if os.getpid() != self._process:
                raise ConfigError(
                    "model: expected the process that loaded it, found a fork of it, which has "
                    "none of its threads. Load the model after the fork."
                )
            if self._closed:
                raise ConfigError("model: expected an open one, found it closed. Load it again.")
            if self._thread is None:
                name = "cpumix compute"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._commands.put(command)

    # on the compute thread

    def _run(self) -> None:
        try:
            self._take_turns()
        except BaseException as error:  # a defect of ours: nobody is to wait for ever
            self.error = error
            with self._lock:
                self._closed = True
            self._obey(wait=False)
            self._fail(error)

    def _take_turns(self) -> None:
        self._backend.bind()
        while not self._closed:
            self._obey(wait=not self._scheduler.jobs)
            self._drop_cancelled()
            shares = [] if self._closed else self._scheduler.plan()
            self._end(self._scheduler.running)  # those with nothing to do
            shares = [share for share in shares if share.job in self._scheduler.running]
            if shares:
                try:
                    self._step(shares)
                except _Abandon:
                    self._may_abandon = False
                except BaseException as error:
                    self._fail(error)
        self._obey(wait=False)
        for job in self._scheduler.jobs:
            self._scheduler.drop(job)
            job.fail(ConfigError("text: the model was closed before its end. Load it again."))

    def _obey(self, wait: bool) -> None:
        """Carry out the commands that have come; wait for one if there is nothing else to do."""
        while wait or not self._commands.empty():  # nobody else takes any
            self._commands.get()()
            wait = False

    def _drop_cancelled(self) -> None:
        self._cancelled = False
        for job in self._scheduler.jobs:
            if job.cancelled:
                self._scheduler.drop(job)
                job.finish("cancelled")

    def _step(self, shares: list[Share]) -> None:
        """Take rows of some jobs through the model, and let each go on."""
        with computing:
            batch = Batch([job.step(rows) for job, rows in shares])
            self._shares, self._rows = shares, len(batch)
            rows = self._transformer.forward(batch, self._on_layer)
            faults = self._transformer.find_faults(batch, rows)
        self._may_abandon = True
        self.steps += 1
        self._scheduler.done(shares)
        jobs = [job for job, _ in shares]
        for i, (job, wanted) in enumerate(zip(jobs, rows, strict=True)):
            try:
                if i in faults:
                    raise faults[i]
                job.take(wanted)
            except Exception as error:  # one text's fault is not the others'
                self._scheduler.drop(job)
                job.fail(error)
        self._end(jobs)
        if self.on_step is not None:
            self.on_step(len(batch))

    def _end(self, jobs: list[Job]) -> None:
        """Let go of jobs that have ended."""
        for job in list(jobs):
            if job in self._scheduler.running:
                self._scheduler.settle(job)
                if job.ended:
                    job.finish("length")

    def _on_layer(self, done: int) -> None:
        """End a step that somebody waits for: a long one when a job comes or leaves."""
        if self._closed:
            raise _Abandon
        for job, rows in self._shares:
            job.on_layer(rows, done)
        if self._rows > LONG_ROWS and self._may_abandon:
            if self._cancelled or not self._commands.empty():
                raise _Abandon

    def _fail(self, error: BaseException) -> None:
        """End all jobs with an error that is nobody's own, such as a broken file."""
        for job in self._scheduler.jobs:
            self._scheduler.drop(job)
            job.fail(error)
        if not isinstance(error, Exception):
            self.error = error
