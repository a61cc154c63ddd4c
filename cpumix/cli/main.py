"""The `cpumix` command and the one place where errors become exit statuses.

0: done. 1: the input was at fault, said in one sentence. 2: the command was mistyped.
130: interrupted. `cpumix fit` answers with 0, 3 or 4; whatever keeps it from answering is 2.
"""

from __future__ import annotations

from importlib import import_module
from typing import IO, Any

import click

from cpumix import __version__
from cpumix.errors import CpumixError

COMMANDS = {
    "bench": "cpumix.cli.bench",
    "convert": "cpumix.cli.convert",
    "export": "cpumix.cli.export",
    "fit": "cpumix.cli.fit",
    "inspect": "cpumix.cli.inspect",
    "perplexity": "cpumix.cli.perplexity",
    "run": "cpumix.cli.run",
    "verify": "cpumix.cli.verify",
    "warmup": "cpumix.cli.warmup",
}
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


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
        try:
            return super().invoke(ctx)
        except CpumixError as error:
            kind = _Unanswerable if ctx.invoked_subcommand == "fit" else _Sentence
            raise kind(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CPUMIX"},
    epilog="Example: cpumix run -p 'And they returned to the city'",
)
@click.version_option(__version__, message="cpumix %(version)s")
def main() -> None:
    """Run Mixtral on a machine with no GPU."""
