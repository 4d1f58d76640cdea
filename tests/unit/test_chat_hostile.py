"""Templates that reach for Python's inside, never end, or want all memory: one clear error, soon."""

import resource
import time

import pytest

from motley.errors import FormatError, MotleyError
from motley.formats.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}]

NEST = "{% set ns = namespace(x=1) %}{% for i in range(60) %}"
INSIDE = [
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ messages|attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['os'] }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ lipsum(n=100000000) }}",
    "{{ messages|map('motley_nothing')|list }}",
]

ENDLESS = [
    "{% for a in range(10**9) %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set s = 'x' * 5000 %}{% for a in s %}{% for b in s %}{% for c in s %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [[[]] * 99] * 99 recursive %}{{ loop([[1] * 99] * 99) }}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|list|length }}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|sum }}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|map('string')|join|length }}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in range(99999) %}{{ -1 in l }}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in range(99999) %}{{ l == l[:] }}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in range(99999) %}{{ l is eq l }}{{ -1 is in l }}{% endfor %}",
]

LARGE = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ([0] * 10**9)|length }}",
    "{{ ((0,) * 10**9)|length }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 2 ** 100000000 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x > 0 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x|replace('a', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.join(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x|join(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = '%s%s'|format(ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x|tojson|tojson %}{% endfor %}",
    "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('ab') }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ 'a'.center(999999999)|length }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ 'a'.translate({97: 'b' * 9999}) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 999999999) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ 'a'|center(999999999) }}",
    "{{ 'a\nb'|indent(999999999) }}",
    "{{ [[1]]|tojson(indent=999999999) }}",
    "{{ 1.5|round(999999999, 'ceil') }}",
    "{{ 'a'|batch(999999999, 'x')|list }}",
    "{{ (5).to_bytes(999999999) }}",
    "{{ range(99999)|map('center', 99999)|list }}",
    "{{ strftime_now('%999999999d') }}",
    "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    NEST + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    NEST + "{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x|tojson }}",
    NEST + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ '' }}",
    NEST + "{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}{{ ns.x|string }}",
    NEST + "{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ '%s' % ns.x }}",
    NEST + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ '{}'.format(ns.x) }}",
    "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}",
    "{{ '%s' * 9999 % (('x' * 999999,) * 9999) }}",
    "{{ ('{0[a]}' * 9999).format({'a': 'x' * 999999}) }}",
    "{{ '{:{0[w]}}'.format({'w': 999999999}) }}",
    "{{ dict(a=1)|tojson(separators=('x' * 99999999, 'y')) }}",
]

UNREADABLE = ["{{", "{% for %}", "{{ 1 +", "{% unknown %}", "{{ " + "(" * 50_000 + "1", "x" * (1 << 21)]
DEEP = ["{{ " + "-" * 20_000 + "1 }}", "{% if 1 %}" * 500 + "{% endif %}" * 500, "{{ " + "1+" * 5_000 + "1 }}"]


@pytest.mark.parametrize("template", INSIDE + ENDLESS + LARGE, ids=lambda text: text[:60])
def test_refused_soon_and_in_little_memory(template: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(FormatError, match=r"^tokenizer\.chat_template") as caught:
        ChatTemplate({"default": template}).render(MESSAGES)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.process_time() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB
    assert MESSAGES == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("template", UNREADABLE + DEEP, ids=lambda text: f"{text[:20]}-{len(text)}")
def test_what_cannot_be_read_is_one_error_or_text(template: str) -> None:
    try:
        ChatTemplate({"default": template}).render(MESSAGES)
        message = "tokenizer.chat_template" if template in DEEP else ""
    except MotleyError as error:
        message = str(error)
    assert message.startswith("tokenizer.chat_template")
