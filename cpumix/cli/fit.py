"""`cpumix fit`: what fits into memory, at which precision, and how fast it will be."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import click

from cpumix.units import format_size

from . import options
from .short_run import start_numpy

NAMES = {"weight": "weights", "kv": "KV cache", "buffer": "buffers", "total": "total"}


@click.command(epilog="Example: cpumix fit mixtral-8x7b --ram 64G --context 8192")
@options.model_shape
@options.ram
@options.context
@options.parallel(1)
@options.kv
@options.precision
@options.ignore_field
@options.no_probe
@options.verify
@options.as_json
def command(
    source: str | None,
    ram: int | None,
    context: int | None,
    parallel: int,
    kv: str,
    precision: str,
    ignore_field: tuple[str, ...],
    no_probe: bool,
    verify: Path | None,
    as_json: bool,
) -> None:
    """Say what fits into memory, and how fast it will be.

    SOURCE is a checkpoint folder, a model file, a GGUF file, a config.json or params.json, or a
    name such as mixtral-8x22b, mistral-7b or llama-3.1-70b; without it, Mixtral 8x7B.

    The exit status is 0 if the choice stays in memory, 3 if it reads experts from disk as it runs,
    4 if it does not run, 2 if the question makes no sense.
    """
    if verify is not None:
        _verify(verify, ram, context, kv, not no_probe, as_json)
        return
    start_numpy()
    from cpumix.fit.answer import answer
    from cpumix.fit.probe import find_bandwidths
    from cpumix.fit.sources import open_source
    from cpumix.machine import machine_info

    from .fit_table import Page

    machine = None
    if ram is None:
        machine = machine_info()
        ram = machine.limit_bytes
    found = open_source(source, ignore_field)
    bandwidths = find_bandwidths(found.path, measure=not no_probe)
    result = answer(found, ram, context, bandwidths, kv=kv, precision=precision, parallel=parallel)
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        width = shutil.get_terminal_size().columns
        for line in Page(result, width, _is_terminal()).lines(machine):
            click.echo(line.rstrip())
    sys.exit(result.exit_status)


def _verify(
    model: Path, ram: int | None, context: int | None, kv: str, probe: bool, as_json: bool
) -> None:
    from cpumix.measure import plan_check

    found = plan_check.verify(model, ram, context, kv, probe=probe)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    plan, predicted, measured = found.plan, found.predicted, found.measured
    click.echo(f"{model}: {plan.precision}, context {plan.context}, KV cache {plan.kv}")
    click.echo(f"{'':10}{'predicted':>12}{'measured':>12}")
    for name in ("weight", "kv", "buffer", "total"):
        sizes = [facts[f"{name}_bytes"] for facts in (predicted, measured)]
        told = "".join(f"{format_size(size):>12}" for size in sizes)
        click.echo(f"{NAMES[name]:10}{told}{100 * (sizes[1] / sizes[0] - 1):+8.1f} %")
    low, high = predicted["tok_s"]
    speeds = f"{low:.3g}-{high:.3g}"
    click.echo(f"{'tok/s':10}{speeds:>12}{measured['tok_s']:>12.3g}")


def _is_terminal() -> bool:
    """Whether someone looks, and can see colours and block characters."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return sys.stdout.isatty() and encoding == "utf8" and "NO_COLOR" not in os.environ
