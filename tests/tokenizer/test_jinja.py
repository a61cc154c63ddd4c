"""Templates of strangers: what they find, and what they cannot do."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cpumix.tokenizer.jinja import JinjaTemplate, TemplateError

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "there"}]


def render(template: str, **variables: Any) -> str:
    return JinjaTemplate(template).render({"messages": MESSAGES, **variables})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% generation %}a{{ messages[0].content }}{% endgeneration %}b", "ahib"),
        ("{{ {'b': '<é>', 'a': [1]} | tojson }}", '{"b": "<é>", "a": [1]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1) }}", '{\n "b": 1,\n "a": 2\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":2,"b":1}'),
        ("{{ 'é\ufdd0🙂' | tojson(ensure_ascii=true) }}", '"\\u00e9\ufdd0\\ud83d\\ude42"'),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        (
            "{{ dict(a=1).items() | list }}{{ dict.fromkeys('ab') }}",
            "[('a', 1)]{'a': None, 'b': None}",
        ),
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/2 2/2 "),
        ("{{ messages | map(attribute='role') | join(', ') }}", "user, assistant"),
        ("{{ messages | selectattr('role', 'eq', 'user') | list | length }}", "1"),
        (
            "{% macro f(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call f(1) %}2{% endcall %}",
            "<12>",
        ),
        (
            "{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is sequence else x }}{% endfor %}",
            "12",
        ),
        ("{{ messages[::-1][0].content[:2] }}{{ 'a' ~ 1 ~ none }}", "tha1None"),
        ("{{ '%s=%d' % ('a', 1) }}{{ '{}{b}'.format(1, b=2) }}{{ 7 % 4 }}", "a=1123"),
        ("{{ 'a b'.split() }}{{ ' a'.strip() }}{{ 'a,b'.split(',', 1) | last }}", "['a', 'b']ab"),
        (
            "{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{% set j = joiner() %}{{ j() }}",
            "12",
        ),
        ("{% block a %}x{% endblock %}{{ self.a() }}", "xx"),
        ("{% filter upper %}a{% set b %}c{% endset %}{{ b }}{% endfilter %}", "AC"),
        ("{% for x in range(5) if x is odd %}{{ x }}{% else %}-{% endfor %}", "13"),
        (
            "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ {'a': 1}['a'] }}",
            "TrueTrue102431",
        ),
        ("{{ 'a' not in 'bc' }}{{ not 'a' in ['a'] }}{{ 'é' in {'é': 1} }}", "TrueFalseTrue"),
        ("{{ missing }}{{ missing is defined }}{{ messages[9] }}", "False"),
        ("{{ [3, 1] | sort | first }}{{ [1, 2] | sum }}{{ 'ab' | list }}", "13['a', 'b']"),
        (
            "{{ 'a\nb' | indent(2) }}{{ 'x' | center(3) }}{{ 'abc defghijk' | truncate(6) }}",
            "a\n  b x abc...",
        ),
        ("{% autoescape true %}{{ '<' }}<{% endautoescape %}{{ '<' | e }}", "&lt;<&lt;"),
    ],
)
def test_templates_find_the_environment_of_transformers(template: str, expected: str) -> None:
    assert render(template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ range.__init__ }}{{ 1 / 0 }}",
        "{{ dict.__class__('x') }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% include 'a' %}",
        "{% extends 'a' %}",
        "{{ 'a'.encode() }}",
        "{{ (1).to_bytes(9) }}",
        "{{ 'a' | nosuchfilter }}",
    ],
)
def test_templates_run_in_a_sandbox(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template)


def grow(first: str, next: str) -> str:
    """Write a template that computes `n.a` anew, ten thousand times."""
    loop = "{%% for x in range(9999) %%}{%% set n.a = %s %%}{%% endfor %%}"
    return f"{{% set n = namespace(a={first}) %}}" + loop % next


def repeat(value: str, *first: str) -> str:
    """Write a template that computes a value a hundred thousand times."""
    sets = "".join(f"{{% set {one} %}}" for one in first)
    loop = f"{{% for i in range(99999) %}}{{% set a = {value} %}}{{% endfor %}}"
    return "{% macro f() %}{{ varargs|length }}{% endmacro %}" + sets + loop


HOSTILE = [
    "{{ ('a'*2000000000)|length }}",
    "{{ '%2000000000d' % 1 }}",
    "{{ '%.2000000000f' % 1 }}",
    "{{ '%*d' % (2000000000, 1) }}",
    "{{ '%2000000000d' is even }}",
    "{{ '{:>2000000000}'.format(1) }}",
    "{{ '{:>{w[a]}}'.format(1, w={'a': 2000000000}) }}",
    grow("'a'", "n.a + n.a"),
    grow("'a'", "n.a ~ n.a"),
    grow("[1]", "n.a + n.a"),
    grow("[1]", "[n.a, n.a]") + "{{ n }}",
    grow("()", "(n.a,)") + "{{ {n.a: 1} }}",
    grow("{}", "{1: n.a, 2: n.a}") + "{{ n.a == {} }}",
    "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) if range(99999) | list %}{% endfor %}",
    "{% for a in range(99999) %}" + "{% set b = a %}" * 5000 + "{% endfor %}",
    "{% for a in range(99999) %}" + "text " * 20000 + "{% endfor %}",
    "{% set x %}{% for a in range(99999) %}" + "text " * 20000 + "{% endfor %}{% endset %}",
    "{{ range(10**12) }}",
    "{{ 2**(2**33) }}",
    "{{ 9**9**9**9**9 }}",
    "{{ lipsum(n=100000000) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ []|tojson(indent=10**9) }}",
    "{{ range(99999)|list|tojson(indent='x' * 1000) }}",
    "{{ 'x'|center(10**10) }}",
    repeat("f(*r)", "r = range(99999)|list"),
    repeat("y in x", "x = 'a' * 2499", "y = 'a' * 300 + 'b' + 'a' * 300"),
    repeat("y not in x", "x = 'a' * 2499", "y = 'a' * 300 + 'b' + 'a' * 300"),
    repeat("x.rfind(y)", "x = 'a' * 29999", "y = 'a' * 3000 + 'b' + 'a' * 3000"),
    repeat("x.rsplit(y)", "x = 'a' * 29999", "y = 'a' * 3000 + 'b' + 'a' * 3000"),
    repeat("x.replace(y, '')", "x = 'a' * 2499", "y = 'a' * 300 + 'b' + 'a' * 300"),
    repeat("x|title", "x = 'ab ' * 9999"),
    "{{ 'x'.ljust(10**10) }}{{ 'x'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ 'a\nb'|indent(10**10) }}",
    "{{ [1] * 10**9 }}",
    "{{ [1]|batch(10**10, 'x')|list }}",
    "{{ [1]|slice(10**10)|list }}",
    "{{ 5|round(-(10**9)) }}",
    "{{ 'abc'|round(9, 'floor') }}",
    "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "{{ ('a' * 99999)|replace(new='b' * 99999, old='a') }}",
    "{{ range(99999)|join('b' * 99999) }}",
    "{{ ('b' * 99999).join(range(99999)|map('string')) }}",
    "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "{% for x in range(9) %}{{ loop|join('b' * 99999) }}{% endfor %}",
    "{{ ([[1]] * 9999)|sum(start=[]) }}",
    "{{ range(99999)|map('center', 99999)|join }}",
    "{{ [-(10**9)]|map(' tick')|list }}",
    "{{ ('9' * 99999)|int }}",
    "{{ ('a' * 99999)|wordwrap(1, wrapstring='b' * 99999) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for x in [messages] recursive %}{{ loop([messages]) }}{% endfor %}",
    "{{ strftime_now('%2000000000Y' * 999999) }}",
]


@pytest.mark.parametrize("template", HOSTILE)
def test_hostile_templates_end_soon_with_a_sentence(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template)


MEASURE = """
import resource, sys
from tokenizer.test_jinja import HOSTILE, TemplateError, render
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for template in HOSTILE:
    try:
        render(template)
    except TemplateError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_hostile_templates_take_little_memory() -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", MEASURE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tests)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 300 << 10  # KiB


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{{ ('a'*2000000000)|length }}", "it asks for more time or memory than a chat template"),
        ("{{ 2**2000 * 2**2000 * 2**2000 }}", "it computes with numbers of more than 4096 bits"),
        ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", "more than 100 levels deep"),
        ("{% for x in [1] %}{{ loop }}{% endfor %}", "it uses a LoopContext as a value"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself too often"),
        ("{{ (1).to_bytes(9) }}", "it calls to_bytes, which no template needs"),
        ("{{ raise_exception('own words') }}", "own words"),
        ("{% if %}", "expected Jinja, found in line 1"),
        ("a" * (1 << 16) + "b", "expected at most 65536 characters, found 65537"),
        ("{{ 1 in [1] in [[1]] }}", "a chain of comparisons with `in`"),
        ("{% break %}", "expected Jinja that can be compiled, found: 'break' outside loop"),
        ("{{ dict(a=1, a=2) }}", "expected Jinja that can be compiled"),
        ("{{ " + "9" * 5000 + " }}", "expected Jinja that can be compiled, found: Exceeds"),
        ("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "expected Jinja, found expressions too deep"),
        ("{% for x in y %}" * 21 + "{% endfor %}" * 21, "expected Jinja that can be compiled"),
        ("{% set ns = namespace(_x=1) %}", "no names with an underscore first, found '_x'"),
    ],
)
def test_refusals_say_why(template: str, match: str) -> None:
    with pytest.raises(TemplateError, match=match):
        render(template)


def test_long_conversations_may_cost_more() -> None:
    messages = [{"role": "user", "content": "words " * 1000}] * 1000
    grown = "{% for m in messages %}{% set n.t = n.t + m.content %}{% endfor %}{{ n.t }}"
    grown = "{% set n = namespace(t='') %}" + grown
    assert len(render(grown, messages=messages[:300])) == 300 * 6000
    template = (
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '\n' }}{% endfor %}"
    )
    assert len(render(template, messages=messages)) == 1000 * 6006


def test_threads_may_share_a_template() -> None:
    template = JinjaTemplate("{% for x in range(n) %}{{ x }},{% endfor %}")
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: template.render({"n": n})}))
        for n in range(100, 116)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: "".join(f"{x}," for x in range(n)) for n in range(100, 116)}
