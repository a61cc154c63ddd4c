"""`cpumix serve`: answer programs and browsers over HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cpumix
from cpumix.errors import ConfigError, CpumixError, escaped
from cpumix.extras import from_extra
from cpumix.input_file import read_text

from . import options
from .conversions import model_file
from .texts import note_first_run

if TYPE_CHECKING:
    from cpumix.serve.log import Log
    from cpumix.serve.tracing import Tracing


@click.command(epilog="Example: cpumix serve mixtral.bin --parallel 4 --port 8080")
@options.optional_model
@options.convert
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 takes a free one.",
)
@options.parallel(8)
@options.context
@options.kv
@options.low_copy
@options.ram
@options.threads
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Texts that may wait; more are told when to come back.",
)
@click.option(
    "--max-queue-tokens",
    type=click.IntRange(min=1),
    help="Tokens of prompts that may wait. Default: 16 contexts.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask for one of the keys in FILE, a line each; # begins a comment.",
)
@click.option("--open", "is_open", is_flag=True, help="Serve other machines without a key.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name of this server.")
@click.option(
    "--cors-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of ORIGIN ask, such as https://example.org; * for all.",
)
@options.served_template
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Send traces to the OpenTelemetry collector at URL, such as http://localhost:4318.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How a line for each request is written to stderr.",
)
def command(
    model: Path | None,
    convert: bool,
    host: str,
    port: int,
    parallel: int,
    context: int | None,
    kv: str,
    low_copy: str,
    ram: int | None,
    threads: int | None,
    api_key_file: Path | None,
    is_open: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    otlp_endpoint: str | None,
    log_format: str,
    **settings: Any,
) -> None:
    """Answer programs and browsers over HTTP.

    Speaks the APIs of OpenAI and of Text Generation Inference. MODEL is a file that `cpumix
    convert` made; without it the small demo model answers. The first SIGTERM or Ctrl-C lets texts
    end, the second one ends at once.
    """
    keys = [] if api_key_file is None else read_keys(api_key_file)
    check_host(host, bool(keys) or is_open)
    with from_extra("serve", "serve"):
        from cpumix.serve import app, guard, log, server, service
    write = log.create_log(log_format)
    model = model_file(model, convert, ram)
    note_first_run()
    try:
        listening = server.listen(host, port)
    except OSError as error:
        raise ConfigError(
            f"address: expected one that is free, found {escaped(host)} port {port}, which cannot "
            f"be listened at ({error.strerror}). Choose another --port or --host."
        ) from error
    with (
        listening,
        traces(otlp_endpoint, write) as tracing,
        cpumix.load(
            model,
            ram=ram,
            threads=threads,
            context=context,
            kv=kv,
            parallel=parallel,
            low_copy=low_copy,
        ) as loaded,
    ):
        for note in loaded.notes:
            click.echo(note, err=True)
        serving = service.Service(loaded, **settings)
        access = guard.Access(keys, {host, *hosts} - {"0.0.0.0", "::"}, origins)
        place = f"[{host}]" if ":" in host else host
        click.echo(
            f"http://{place}:{listening.getsockname()[1]} serves {serving.name}, and a page "
            f"to chat with it: {parallel} texts at once, each of up to {loaded.context} tokens"
        )
        engine = loaded.engine.loop
        web = app.create_app(serving, access, write, tracing)
        if not server.run(web, [listening], lambda: engine.alive):
            raise CpumixError(f"engine: expected it to run, found it ended by {engine.error!r}.")


@contextmanager
def traces(endpoint: str | None, log: Log) -> Iterator[Tracing | None]:
    """Yield what sends traces to a collector, if there is one. Raises ConfigError if it cannot."""
    if endpoint is None:
        yield None
        return
    with from_extra("otlp", "--otlp-endpoint"):
        from cpumix.serve.tracing import Tracing
    with closing(Tracing(endpoint, log)) as tracing:
        yield tracing


def read_keys(path: Path) -> list[str]:
    """Return the keys in a file. Raises ConfigError if there are none."""
    lines = (line.strip() for line in read_text(path).splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError("--api-key-file: expected a key on a line, found none. Write one there.")
    return keys


def check_host(host: str, is_guarded: bool) -> None:
    """Raise ConfigError if other machines could ask without a key and nobody wanted that."""
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and not is_guarded:
        raise ConfigError(
            f"--host: expected a key for other machines to show, found none for {escaped(host)}. "
            "Give --api-key-file, or --open if anybody may ask."
        )
