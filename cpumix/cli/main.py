"""The `cpumix` command and the one place where errors become exit statuses.

0: done. 1: the input was at fault, said in one sentence. 2: the command was mistyped.
128 + N: ended by signal N, 130 by Ctrl-C. `cpumix fit` answers with 0, 3 or 4; whatever keeps it
from answering is 2.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

import click

from cpumix import __version__
from cpumix.errors import CpumixError, quoted

from . import endings
from .hints import hint_for

COMMANDS = {
    "batch": "cpumix.cli.batch",
    "bench": "cpumix.cli.bench",
    "chat": "cpumix.cli.chat",
    "classify": "cpumix.cli.classify",
    "convert": "cpumix.cli.convert",
    "export": "cpumix.cli.export",
    "fit": "cpumix.cli.fit",
    "inspect": "cpumix.cli.inspect",
    "perplexity": "cpumix.cli.perplexity",
    "run": "cpumix.cli.run",
    "serve": "cpumix.cli.serve",
    "verify": "cpumix.cli.verify",
    "warmup": "cpumix.cli.warmup",
}


class _Sentence(click.ClickException):
    """A CpumixError on its way to the terminal."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"cpumix: error: {self.message}", file=file, err=file is None)


class _Unanswerable(_Sentence):
    """The same for a command whose other statuses are answers."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group of the commands in `COMMANDS`, none of which is imported before it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; turn what the user caused into a sentence and a status."""
        endings.catch_signals()
        try:
            return super().invoke(ctx)
        except CpumixError as error:
            kind = _Unanswerable if ctx.invoked_subcommand == "fit" else _Sentence
            raise kind(str(error)) from error
        except click.NoSuchOption as error:
            if error.ctx and (hint := hint_for(error.option_name, error.ctx.command)):
                message = f"No such option: {error.option_name}. {hint}"
                raise click.UsageError(message, error.ctx) from error
            raise
        except KeyboardInterrupt as error:
            ctx.exit(endings.end(error))

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the whole program; say what cannot be written, be it help, text or numbers."""
        try:
            return super().main(*args, **options)
        except OSError as error:
            kind = _Unanswerable if "fit" in sys.argv[1:2] else _Sentence
            if endings.is_broken_output(error):
                sentence = kind(f"output: cannot be written to its end: {error.strerror}.")
            elif error.filename is not None and error.strerror:
                sentence = kind(f"{quoted(error.filename)}: {error.strerror}.")
            else:
                raise
            with suppress(OSError):
                sentence.show()
            endings.drop_output()
            sys.exit(sentence.exit_code)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CPUMIX"},
    epilog="Example: cpumix run -p 'And they returned to the city'",
)
@click.version_option(__version__, message="cpumix %(version)s")
def main() -> None:
    """Run Mixtral on a machine with no GPU."""
