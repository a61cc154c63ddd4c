"""Draws random templates of all operations that there are, with values that grow, and runs them.

A template fails if it takes more time or memory than its steps allow, or if anything but a
TemplateError comes of it.
"""

from __future__ import annotations

import re
import time
from random import Random

from cpumix.tokenizer.jinja import JinjaTemplate, TemplateError
from cpumix.tokenizer.jinja import template as limits

STEPS = 1_000_000  # of each run, where others have 24 times as many: so many more cases fit
SECONDS = 0.6
START = "{{% set n = namespace(t={}, n={}, l={}) %}}{{% macro f(x) %}}{{{{ x }}}}{{% endmacro %}}"
# Expressions by type: t a text, n a number, l a list; what stands in braces is drawn again.
FORMS = {
    "t": """
        n.t; n.t; 'a'; 'é b'; '%s %s'; '%9999d'; '{{:>9999}}'; 'a,b\\n\\tc'; '<b> a@b.c www.x.y'
        {t} + {t}; {t} ~ {l}; {t} * {n}; '%s' % {t}; '%*d' % ({n}, 1); {t}.join({l}); f({t})
        {t}.replace({t}, {t}); {t}.center({n}); {t}.ljust({n}); {t}.rjust({n}); {t}.zfill({n})
        {t}.expandtabs({n}); {t}.upper(); {t}.lower(); {t}.title(); {t}.swapcase(); {t}.strip()
        {t}.capitalize(); {t}.casefold(); {t}.lstrip({t}); {t}.rstrip({t}); {t}.removeprefix({t})
        {t}.removesuffix({t}); {t}.translate({{97: {t}}}); {t}.format({t}, {n})
        {t}.format_map({{'a': {t}}}); {t}|capitalize; {t}|center({n}); {t}|e; {t}|escape
        {t}|forceescape; {t}|format({t}); {t}|indent({n}); {t}|indent({t}); {l}|join({t})
        {t}|lower; {t}|pprint; {t}|replace({t}, {t}); {t}|replace(new={t}, old={t}); {t}|safe
        {l}|string; {t}|striptags; {t}|title; {t}|trim; {t}|truncate({n}); {t}|upper
        {t}|urlencode; {t}|urlize; {t}|wordwrap({n}); {{'a': {t}}}|xmlattr; {t}|tojson
        {l}|tojson(indent={n}); {l}|tojson(separators=({t}, {t})); {l}|last|string
        {l}|first|string; {l}|random|string; {t}[::-1]; {t}[{n}:]; {n}|filesizeformat
        {t}|default({t}); {t}|d; {t}|attr('x')|default({t}, true); strftime_now({t})
        {t}|from_json|string
    """,
    "n": """
        n.n; 0; 1; 2; 7; 99; 999; 99999; 10**9; -1; -(10**9); 2**4000; 1.5
        {n} + {n}; {n} - {n}; {n} * {n}; {n} / 7; {n} // 7; {n} % 7; {n} ** 9; 2 ** {n}
        {t}|length; {l}|length; {l}|count; {n}|abs; {t}|int; {t}|float; {n}|round
        {n}|round({n}, 'floor'); {l}|map('length')|sum; {t}|wordcount; {t}.count({t})
        {t}.find({t}); {t}.rfind({t}); ({t} == {t})|int; ({t} in {l})|int; ({l} == {l})|int
        ({t} is upper)|int; ({n} is even)|int; ({n} is divisibleby(3))|int; ({t} < {t})|int
        {l}.count({t}); {l}.index({t}); {t}.startswith({t})|int; {t}.endswith({t})|int
        {t}.isalpha()|int; {t}.index({t}); {t}.rindex({t}); {n}.bit_length(); ({n} is odd)|int
    """,
    "l": """
        n.l; n.l; []; messages; [{t}, {n}]; [{l}, {l}]; ({l}, {l}); [{{1: {l}}}]; {l} + {l}
        {l} * {n}; {t}|list; range({n})|list; {t}.split({t}); {t}.split(); {t}.rsplit({t})
        {t}.splitlines()
        {t}.partition({t})|list; {t}.rpartition({t})|list; {l}|batch({n}, {t})|list
        {l}|slice({n})|list; {{'b': {l}, 'a': 1}}|dictsort; {l}|groupby('role')
        {{1: {t}}}|items|list
        {l}|map('string')|list; {l}|map('center', {n})|list; {l}|map(attribute='role')|list
        {l}|map('upper'); {l}|reject('none')|list; {l}|rejectattr('role')|list; {l}|reverse|list
        {l}|select('string')|list; {l}|selectattr('role', 'eq', {t})|list; {l}|map('string')|sort
        [{l}, {l}]|sum(start=[]); {l}|map('string')|unique|list; [{l}|map('string')|max]
        [{l}|map('string')|min]; {l}[::2]; {l}.copy(); [({l},).count({l})]; [({l},).index({l})]
        {{1: {l}}}.get(1); {{1: {l}}}.copy().values()|list; {{({l}|string): 1}}.keys()|list
        dict(a={l}).items()|list; dict.fromkeys({l}|map('string'))|list
        [cycler({t}, {l}).next()]; [namespace(a={l}).a]
    """,
}
TABLE = {
    kind: [form for line in forms.strip().splitlines() for form in line.strip().split("; ")]
    for kind, forms in FORMS.items()
}
_PART = re.compile(r"\{([tnl])\}")


def expression(draw: Random, kind: str, depth: int) -> str:
    """Return a random expression of a type: "t" a text, "n" a number, "l" a list."""
    form = draw.choice([form for form in TABLE[kind] if depth > 0 or not _PART.search(form)])
    form = _PART.sub(lambda part: f"({expression(draw, part[1], depth - 1)})", form)
    return form.replace("{{", "{").replace("}}", "}")


def statements(draw: Random, depth: int) -> str:
    """Return some random statements."""
    parts = []
    for _ in range(draw.randrange(1, 5)):
        choice = draw.randrange(8) if depth else draw.randrange(5)
        kind = draw.choice("ttnll")
        value = expression(draw, kind, draw.randrange(4))
        if choice == 0:
            parts.append(f"{{{{ {value} }}}}")
        elif choice <= 4:
            parts.append(f"{{% set n.{kind} = {value} %}}")
        elif choice <= 6:
            over = draw.choice(["range(9)", "range(99)", "range(99999)", expression(draw, "l", 1)])
            body = statements(draw, depth - 1)
            parts.append(f"{{% for a in {over} %}}{body}{{% endfor %}}")
        else:
            begin, end = draw.choice([("if n.n", "endif"), ("set b", "endset")])
            parts.append(f"{{% {begin} %}}{statements(draw, depth - 1)}{{% {end} %}}")
    return "".join(parts)


def run(draw: Random) -> str:
    """Run a random template. Raises AssertionError for a fault of ours."""
    return _run(START.format("'ab'", 3, "[1]") + statements(draw, 3))


def run_operation(draw: Random) -> str:
    """Run one operation on large values until the steps are used up: each must count enough."""
    size = draw.choice([1, 20, 300, 2000, 20000])
    texts = ["'a' * {}", "'ab ' * {}", "'é' * {}", "'<b>\\n' * {}", "'a' * {0} ~ 'b' ~ 'a' * {0}"]
    lists = ["range({})|list", "['a'] * {}", "[[1, 'a']] * {}", "[{{'role': 'a'}}] * {}"]
    number = draw.choice([1, 7, 999, 2**60])
    start = START.format(draw.choice(texts).format(size), number, draw.choice(lists).format(size))
    form = draw.choice(TABLE[draw.choice("tnl")])
    other = draw.choice(["'a'", "'ab'", "n.t[:len]", "n.t[len:] ~ 'b' ~ n.t[len:]", "n.t"])
    other = other.replace("len", str(draw.choice([1, 9, 99, 300, 999])))
    names = {"t": ["n.t", other], "n": ["n.n", "3"], "l": ["n.l", "n.l"]}
    form = _PART.sub(lambda part: f"({names[part[1]].pop(0) if names[part[1]] else 3})", form)
    value = form.replace("{{", "{").replace("}}", "}")
    return _run(start + f"{{% for i in range(99999) %}}{{% set a = {value} %}}{{% endfor %}}")


def _run(source: str) -> str:
    usual, limits.STEPS = limits.STEPS, STEPS
    began = time.thread_time()
    try:
        template = JinjaTemplate(source)
        began = time.thread_time()  # again: compiling is bound by the length
        template.render({"messages": [{"role": "user", "content": "a" * 99}] * 9})
        outcome = "ran"
    except TemplateError as e:
        assert not isinstance(e.__cause__, MemoryError), f"out of memory: {source}"
        outcome = "stopped" if "more time or memory" in str(e) else "rejected"
    finally:
        limits.STEPS = usual
    took = time.thread_time() - began
    assert took < SECONDS, f"{took:.1f} seconds of the processor: {source}"
    return outcome
