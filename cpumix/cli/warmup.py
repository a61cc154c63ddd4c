"""`cpumix warmup`: compile the kernels before they are needed."""

from __future__ import annotations

import time

import click

from .progress import progress_bar
from .texts import note_first_run


@click.command(epilog="Example: cpumix warmup")
def command() -> None:
    """Compile all kernels for this processor now.

    A first run compiles what it needs by itself. This compiles everything, for every precision and
    KV cache, say while an image is built or before a machine goes offline.
    """
    note_first_run()
    from cpumix.kernels.compile.isa import active
    from cpumix.measure.warmup import warm_up

    began = time.perf_counter()
    with progress_bar("Compiling", "{} steps".format) as progress:
        folder = warm_up(progress)
    click.echo(
        f"kernels for {active().name}: ready after {time.perf_counter() - began:.1f} s, "
        f"kept in {folder}"
    )
