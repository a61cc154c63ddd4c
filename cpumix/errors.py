"""The errors that a user can cause; each carries one sentence that says what to do.

The sentence's form is: what was looked at: what was expected, what was found. One thing to do.
`cli.main` turns every `CpumixError` into that sentence on stderr and exit status 1.
"""


class CpumixError(Exception):
    """Base of every error that is the input's fault and not a defect of cpumix.

    `option` is what can be done about it on the command line, where that is the only place to do
    it; who asks over HTTP gets the `message` without it.
    """

    def __init__(self, message: str = "", option: str = "") -> None:
        super().__init__(f"{message} {option}".strip())
        self.message, self.option = message, option

    def without_option(self) -> "CpumixError":
        """Return the same error, for where that option is none."""
        return type(self)(self.message)


class ConfigError(CpumixError):
    """A configuration, option or prompt that cannot be honoured."""


class FormatError(CpumixError):
    """A model file that is damaged, foreign, or of another version."""


class ConvertError(CpumixError):
    """A checkpoint that cannot be read, or a target that cannot be written."""


class BudgetError(CpumixError):
    """A memory budget that is too small for the model and context."""


class UnsupportedCpu(CpumixError):
    """An instruction-set level that this processor does not have."""


def quoted(name: object, most: int = 80) -> str:
    """Return a name from a file as errors show it: in quotes, cut, in one line; see `escaped`."""
    return f'"{escaped(name, most)}"'


def escaped(text: object, most: int = 80) -> str:
    """Return a text from a file as errors show it, unprintable characters escaped.

    What exceeds `most` characters is cut from the middle: names tell most at their ends.
    """
    shown = str(text)
    if len(shown) > most:
        head = (most - 3) * 2 // 3
        shown = f"{shown[:head]}...{shown[head + 3 - most :]}"
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
