"""What Prometheus reads at /metrics; names and meanings follow vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cpumix.engine.stats import Stats
from cpumix.model import Model

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """The numbers of one server."""

    def __init__(self, model: Model) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineNumbers(model))
        own: dict[str, Any] = {"registry": self._registry, "namespace": "cpumix"}
        timed: dict[str, Any] = {**own, "buckets": SECONDS}
        self._prompt = Counter("prompt_tokens", "Tokens of prompts.", **own)
        self._generated = Counter("generation_tokens", "Tokens that were written.", **own)
        self._ends = Counter(
            "request_success", "Texts that ended, by reason.", ["finished_reason"], **own
        )
        self._first = Histogram(
            "time_to_first_token_seconds", "From the request to its first token.", **timed
        )
        self._next = Histogram("inter_token_latency_seconds", "From token to token.", **timed)
        self._whole = Histogram(
            "e2e_request_latency_seconds", "From the request to the end of its text.", **timed
        )
        self._answers = Counter("http_requests", "Answers.", ["path", "status"], **own)

    def first_token(self, seconds: float, stats: Stats) -> None:
        """Count a prompt, and the first token after it."""
        self._first.observe(seconds)
        self._prompt.inc(stats.prompt_tokens)
        self._generated.inc()

    def next_token(self, seconds: float) -> None:
        """Count a token that came `seconds` after the one before it."""
        self._next.observe(seconds)
        self._generated.inc()

    def finished(self, reason: str, seconds: float | None = None) -> None:
        """Count the end of a text."""
        self._ends.labels(reason).inc()
        if seconds is not None:
            self._whole.observe(seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """Count texts that were read for their vectors or labels, and not gone on with."""
        self._prompt.inc(tokens)
        self.finished("read", seconds)

    def answered(self, path: str, status: int) -> None:
        """Count an answer."""
        self._answers.labels(path, str(status)).inc()

    def render(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self._registry)


class EngineNumbers:
    """What the engine counts itself, read when it is asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        engine = self._model.engine
        scheduler, pool, pager = engine.scheduler, engine.pool, engine.pager.counters
        blocks = pool.held + pool.available
        gauges = {
            "num_requests_running": ("Texts under way.", len(scheduler.running)),
            "num_requests_waiting": ("Texts that wait for room.", len(scheduler.waiting)),
            "kv_cache_usage_perc": ("Share of the KV cache in use.", pool.held / blocks),
            "kv_cache_bytes": ("Bytes of the KV cache in memory.", pool.resident_bytes),
            "expert_budget_bytes": ("What experts may take.", pager.budget_bytes),
        }
        counters = {
            "prefix_cache_queries": ("Prompt tokens looked up.", scheduler.prefix.asked_tokens),
            "prefix_cache_hits": ("Prompt tokens found.", scheduler.prefix.hit_tokens),
            "engine_steps": ("Passes through the model.", engine.loop.steps),
            "expert_hits": ("Uses of experts in memory.", pager.hits),
            "expert_misses": ("Uses of experts that had to be read.", pager.misses),
            "expert_read_bytes": ("Bytes of experts read.", pager.bytes_read),
            "expert_evictions": ("Experts that made room.", pager.evictions),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"cpumix_{name}", about, value)
        for name, (about, value) in counters.items():
            yield CounterMetricFamily(f"cpumix_{name}", about, value)
