"""How a command ends early: by a signal, or because what it says cannot be written."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

import click

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
# Ctrl-C aside, the signals that ask a process to end, such as `kill` and a closed terminal.
_SIGNALS = ("SIGTERM", "SIGHUP")


class Ended(KeyboardInterrupt):
    """A signal has asked the process to end: everything is cleaned up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


def catch_signals() -> None:
    """Raise `Ended` on signals that would end the process at once.

    A signal that is ignored, as under nohup, or that another program handles stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def end(error: KeyboardInterrupt) -> int:
    """Say on stderr that a signal has ended the command; return its exit status."""
    ended = isinstance(error, Ended)
    with suppress(OSError):
        click.echo("ended" if ended else "interrupted", err=True)
    return error.status if isinstance(error, Ended) else INTERRUPTED


def is_broken_output(error: OSError) -> bool:
    """Whether an error is that of an output which takes no more, and not a closed pipe."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return error.errno in full and error.filename is None


def drop_output() -> None:
    """Send what is still to be written nowhere: Python would try again at its end, and fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                stream.flush()
        except (AttributeError, ValueError):  # there is none, or it is closed
            pass
