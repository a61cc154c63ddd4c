"""Jinja's sandbox with the variables and filters of transformers, counting every operation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from types import MethodType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from .costs import FILTER_COSTS, METHODS, OPERATORS, TESTS, Cost, linear, named, nothing
from .meter import ITEM, LETTERS, STEP, Meter
from .rewrite import NODE, SLICE, TICK, WEIGH

_CALLABLE = (Macro, LoopContext, BlockReference, Joiner, Undefined)
_NOT_ASCII = re.compile("[^\x00-\x7f\ufdd0\ufdd1]")  # but for the marks of text, see chat_marks


class GenerationTag(jinja2.ext.Extension):
    """Read `{% generation %}`, with which templates show trainers the assistant's part."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Dict:
    """The `dict` of templates: without the type's own attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Return a dictionary."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a dictionary with some keys."""
        return dict.fromkeys(*args)


class PrivateNamespace(Namespace):
    """A namespace without names that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        for name in dict(*rest, **kwargs):
            _check_public(name)
        Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a variable."""
        _check_public(name)
        Namespace.__setitem__(self, name, value)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Jinja for templates from strangers. Every run is counted by `meter`; one at a time."""

    intercepted_binops = frozenset(OPERATORS)

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, jinja2.ext.loopcontrols],
            finalize=self._count_output,
            optimized=False,  # constants are computed in the run, not before it
        )
        self.meter = meter
        own = {"tojson": tojson, "from_json": from_json}
        filters: dict[str, Callable[..., Any]] = self.filters | own
        self.filters = {k: self._count(filters[k], FILTER_COSTS[k]) for k in FILTER_COSTS}
        self.filters |= {WEIGH: self._weigh, SLICE: self._slice, TICK: self._tick}
        tests: Any = self.tests  # Jinja calls them mere functions
        self.tests = {k: self._count(tests[k], TESTS[k]) for k in TESTS}
        self.globals.clear()
        functions: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": Dict(),
            "namespace": PrivateNamespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": raise_exception,
        }
        self.globals.update(functions, strftime_now=strftime_now)
        self._costs: dict[Any, Cost] = {
            **dict.fromkeys(functions.values(), linear),
            Dict.fromkeys: linear,
            strftime_now: named,
            Cycler.next: nothing,
            Cycler.reset: nothing,
            LoopContext.cycle: nothing,
            LoopContext.changed: linear,
        }

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        cost, subject = self._cost_of(__obj)
        given = [*subject, *args, *kwargs.values()]  # as many as a list has, after a star
        self.meter.charge(STEP + ITEM * len(given))
        self.meter.charge(cost(self.meter, given))
        return super().call(__context, __obj, *args, **kwargs)

    def _cost_of(self, function: Any) -> tuple[Cost, list[Any]]:
        """Return what bounds a function that a template calls, and what it belongs to."""
        if isinstance(function, _CALLABLE):
            return nothing, []
        if isinstance(function, MethodType):
            function = function.__func__
        if (cost := self._costs.get(function)) is not None:
            return cost, []
        # Jinja wraps str.format, and keeps what it wraps.
        function = getattr(function, "__wrapped__", function)
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        for kind, methods in METHODS.items():
            if (isinstance(owner, kind) or owner is kind) and name in methods:
                return methods[name], [owner]
        raise SecurityError(f"it calls {name or type(function).__name__}, which no template needs")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: D102
        self.meter.charge(STEP + OPERATORS[operator](self.meter, [left, right]))
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: D102
        steps = 0 if isinstance(argument, (str, int)) else self.meter.weigh(argument)
        self.meter.charge(NODE + steps)
        return super().getitem(obj, argument)

    def _count(self, function: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
        """Return a filter or test that is counted before it runs."""
        meter = self.meter
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # it gets the environment first

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = [*args[skipped:], *kwargs.values()]
            meter.charge(STEP + ITEM * len(given))
            meter.charge(cost(meter, given))
            result = function(*args, **kwargs)
            return iter(meter.collect(result)) if isinstance(result, Iterator) else result

        return counted

    @staticmethod
    @pass_context  # so that Jinja does not call it for constants, before the run
    def _count_output(context: Context, value: Any) -> Any:
        assert isinstance(context.environment, MeteredEnvironment)
        meter = context.environment.meter
        meter.charge(NODE + meter.weigh(value))
        return value

    def _weigh(self, value: Any) -> Any:
        self.meter.charge(self.meter.weigh(value))
        return value

    def _slice(self, value: Any) -> Any:
        each = 1 if isinstance(value, str) else ITEM * LETTERS
        self.meter.charge(1 + each * len(value) // LETTERS)
        return value

    def _tick(self, steps: int) -> bool:
        self.meter.charge(steps)
        return True


def raise_exception(message: object) -> NoReturn:
    """Reject the messages, in the template's own words."""
    raise jinja2.TemplateError(str(message))


def strftime_now(form: str) -> str:
    """Write the time; Python's rules for `form`."""
    return datetime.now().strftime(form)


def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Write a value as JSON, without the escapes for HTML that Jinja's own makes."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return (
        _NOT_ASCII.sub(lambda letter: json.dumps(letter[0])[1:-1], text) if ensure_ascii else text
    )


def from_json(value: Any) -> Any:
    """Return the value of a text in JSON, and anything else as it is; only our templates use it."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no names with an underscore first, found {name!r}")
