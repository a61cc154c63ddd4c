"""Options whose value may be left out, such as `--ray [ADDRESS]`.

Click gives such an option the next word if it does not look like an option, even one that was meant
as the command's argument. The argument that is missing then is the last one, which is there.
"""

from __future__ import annotations

from itertools import pairwise

import click

from cpumix.errors import quoted


class OptionalValue(click.Option):
    """One such option; `flag_value` is its value when none follows."""


class OptionalValueCommand(click.Command):
    """A command with such options, which says when one of them has taken an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what was typed. Raises UsageError where an argument is missing."""
        pairs = list(pairwise(args))  # `args` is used up below
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            optional = {
                name: option
                for option in self.params
                if isinstance(option, OptionalValue)
                for name in option.opts
            }
            for name, word in pairs:
                if name in optional and (word == "-" or not word.startswith("-")):
                    kind = optional[name].make_metavar(ctx).strip("[]")
                    missing = error.param and error.param.make_metavar(ctx)
                    raise click.UsageError(
                        f"{name} has taken {quoted(word)} as its {kind}, and {missing} is missing. "
                        f"Write {name} last, or {name}={kind}.",
                        ctx,
                    ) from error
            raise
