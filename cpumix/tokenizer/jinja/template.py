"""One template: compiled once, run with a limit each time."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

import jinja2

from .environment import MeteredEnvironment
from .meter import LimitError, Meter
from .rewrite import count_work

# Characters of a template; the longest of the 70 that llama.cpp collects has 17,000. Compiling as
# many takes a second and 200 MB at most.
LONGEST = 1 << 16
# Two seconds and 200 MB at most, and 128 times the conversation's own size: templates copy each
# text several times, and some go through all messages again for each.
STEPS, STEPS_PER_STEP = 24_000_000, 128


class TemplateError(Exception):
    """A template that cannot be compiled or run; the text says why, in words of its own."""


class JinjaTemplate:
    """A template that any number of threads may run; they take turns."""

    def __init__(self, source: str) -> None:
        """Compile a template. Raises TemplateError for what is not Jinja, or too long."""
        self._meter = Meter()
        self._turn = Lock()
        environment = MeteredEnvironment(self._meter)
        if len(source) > LONGEST:
            raise TemplateError(f"expected at most {LONGEST} characters, found {len(source)}")
        try:
            code = environment.compile(count_work(environment.parse(source)))
            names = environment.make_globals(None)
            self._template = jinja2.Template.from_code(environment, code, names)
        except jinja2.TemplateSyntaxError as e:
            raise TemplateError(f"expected Jinja, found in line {e.lineno}: {e.message}") from e
        except RecursionError as e:
            raise TemplateError("expected Jinja, found expressions too deep in one another") from e
        except Exception as e:  # what Jinja accepts, and Python does not
            found = str(e) or type(e).__name__
            raise TemplateError(f"expected Jinja that can be compiled, found: {found}") from e

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return what the template writes.

        Raises TemplateError with the template's own words when it rejects the variables, and when
        it asks for more time or memory than their size allows.
        """
        with self._turn:
            try:
                self._meter.left = STEPS
                self._meter.left += STEPS_PER_STEP * self._meter.weigh(dict(variables))
                return "".join(self._template.generate(variables))
            except LimitError as e:
                raise TemplateError(str(e)) from e
            except RecursionError as e:
                raise TemplateError("it calls itself too often") from e
            except Exception as e:  # whatever a program from the internet may come to
                raise TemplateError(str(e) or type(e).__name__) from e
