"""Templates: columns are found ahead, nulls are empty, and a row that cannot be rendered is a value."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.flow import Failure, FailureKind
from pipeline.template import Template, check_columns


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("{{ text }} {{ stars }}", ("stars", "text")),
        ('{{ row["Review Text"] }} {{ row.stars }}', ("Review Text", "stars")),
        ("{% for i in range(3) %}{{ i }}{{ text }}{% endfor %}", ("text",)),
        ("{{ range }}", ("range",)),
        ("{% set a = text %}{{ a }}", ("text",)),
        ("{% if false %}{{ other }}{% endif %}{{ text }}", ("other", "text")),
        ('{{ row["items"] }}', ("items",)),
        ("{{ meta.name }}", ("meta",)),
        ("no column", ()),
        ("{{ row }}", None),
        ("{{ row[name] }}", None),
        ("{{ row[0] }}", None),
        ("{{ other[row] }}", None),
        ("{% for name, cell in row.items() %}{{ name }}{% endfor %}", None),
        ("{{ row | tojson }}", None),
    ],
)
def test_columns_are_found(source: str, columns: tuple[str, ...] | None) -> None:
    """The columns of a template are known without a row; None stands for all."""
    assert Template(source).columns == columns


def test_render_fills_in_the_cells() -> None:
    """Both ways to name a column give its cell, as it stands."""
    template = Template('{{ text }}|{{ row["Full Name"] }}|{{ stars + 1 }}')
    assert template.render({"text": "<a & b>", "Full Name": "Ann", "stars": 4}) == "<a & b>|Ann|5"


def test_a_column_named_row_wins() -> None:
    """An input with a column `row` gives that column under this name."""
    template = Template("{{ row }}")
    assert template.render({"row": "cell"}) == "cell"
    assert check_columns(template, ["row", "x"]) == ("row", "x")


def test_a_column_named_like_a_function_is_a_column() -> None:
    """A column may be called `range`; calls still reach the function."""
    assert Template("{{ range }}").render({"range": "100 km"}) == "100 km"
    assert Template("{{ range(2) | list }}").render({"x": 1}) == "[0, 1]"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[{{ x }}]", "[]"),
        ("{{ x | trim | upper }}", ""),
        ("{{ x | truncate(5) }}", ""),
        ("{{ x | length }}", "0"),
        ("{{ x ~ 'y' }}", "y"),
        ("{{ x | default('none given', true) }}", "none given"),
        ("{% if x %}yes{% else %}no{% endif %}", "no"),
        ("{{ x is none }} {{ x == none }} {{ x is not none }}", "True True False"),
        ("{{ row | tojson }}", '{"x": null}'),
        ("{% for part in x %}{{ part }}{% endfor %}", ""),
        ("{{ x | int }}", "0"),
    ],
)
def test_a_null_cell_is_empty_text(source: str, expected: str) -> None:
    """A null cell reads as nothing wherever it is used, and still passes `is none`."""
    assert Template(source).render({"x": None}) == expected


def test_a_null_inside_a_struct_is_empty_text() -> None:
    """Null fields of nested values print as nothing too."""
    assert Template("[{{ meta.name }}]").render({"meta": {"name": None}}) == "[]"


def test_tojson_keeps_characters() -> None:
    """JSON in a prompt is literal: no escapes for HTML or for letters beyond ASCII."""
    values = {"x": {"name": "J\u00fcrgen <j@x>", "day": date(2026, 11, 22)}}
    assert Template("{{ x | tojson }}").render(values) == '{"name": "J\u00fcrgen <j@x>", "day": "2026-11-22"}'


def test_control_characters_are_taken_out() -> None:
    """Tab and line feed stay, line ends become line feeds, other controls and lone surrogates go."""
    text = "a\x00b\x1b[0m\tc\r\nd\re\x85\x7f\ud800\u00e9\U0001f600"
    assert Template("{{ x }}").render({"x": text}) == "ab[0m\tc\nd\ne\u00e9\U0001f600"


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_sent(text: str) -> None:
    """Whatever a cell holds, the prompt is valid UTF-8 without carriage returns or NUL."""
    prompt = Template("{{ x }}").render({"x": text})
    assert isinstance(prompt, str)
    assert not {"\r", "\x00"} & set(prompt.encode().decode())


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_plain_text_passes_unchanged(text: str) -> None:
    """A cell without control characters reaches the prompt as it is, also if it looks like a template."""
    assert Template("{{ x }}").render({"x": text}) == text
    assert Template("{{ x }}.").render({"x": "{{ y }}"}) == "{{ y }}."


@pytest.mark.parametrize(
    ("source", "value", "words"),
    [
        ("{{ 1 / x }}", 0, "division by zero"),
        ("{{ x + 1 }}", "4", "can only concatenate str"),
        ("{{ x + 1 }}", None, "unsupported operand types for +: `Null` and `int`"),
        ("{{ 2 * x }}", None, "unsupported operand types for *: `int` and `Null`"),
        ("{{ x > 3 }}", None, "`>` not supported"),
        ("{{ x.y }}", {}, "`dict object` has no attribute `y`"),
        ("{{ x | attr('__class__') }}", "a", "access to attribute"),
        ("{{ '{0.__class__}'.format(x) }}", "a", "access to attribute"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ x }}", "a", "access to attribute"),
        ("{{ x.__class__.__mro__ }}", "a", "access to attribute"),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ x }}",
            1,
            "maximum recursion depth",
        ),
        ("{{ x | map('upper') }}", ["a"], "a generator has no text"),
        ("{{ x.upper }}", "a", "a builtin_function_or_method has no text"),
        ("{{ x.append(1) }}", [], "access to attribute"),
        ("{{ x | xmlattr }}", "a", "`str` object has no attribute `items`"),
        ("{{ {}.pop(x) }}", "a", "access to attribute"),
        ("{{ '%(a)s' % dict(b=x) }}", "a", "no key `a`"),
        ("{{ x / 0 }}", Decimal(1), "decimal arithmetic: DivisionByZero"),
    ],
)
def test_a_row_that_cannot_be_rendered_is_a_value(source: str, value: object, words: str) -> None:
    """An error on one row's values is that row's Failure, in one line."""
    failure = Template(source).render({"x": value})
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TEMPLATE
    assert failure.message.startswith(words)
    assert "\n" not in failure.message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{{ x", "line 2 of the template: unexpected end of template"),
        ("{% foo %}", "line 1 of the template: encountered unknown tag `foo`"),
        ("\n\n{{ x | shout }}", "line 3 of the template: no filter named `shout`"),
        ("\n{% if x %}{{ x | shout }}{% endif %}", "line 2 of the template: no filter named `shout`"),
        ("{% if x %}{{ x is odder }}{% endif %}", "line 1 of the template: no test named `odder`"),
        ("{{ x | random }}", "line 1 of the template: no filter named `random`"),
        ("{{ a b }}", "line 1 of the template: expected token"),
        ("x\n{% include 'a' %}", "line 2 of the template: it cannot load other templates"),
        ("{% from 'a' import b %}", "line 1 of the template: it cannot load other templates"),
        ("{% import 'a' as b %}", "line 1 of the template: it cannot load other templates"),
        ("{% extends 'a' %}", "line 1 of the template: it cannot load other templates"),
        ("{{ self }}", "line 1 of the template: `self` is a word of the template language"),
        (
            "{{ row.a }}\n{% for row in x %}{% endfor %}",
            "line 2 of the template: `row` gets another meaning",
        ),
        ("{{ " + "(" * 3000 + "x" + ")" * 3000 + " }}", "the template does not compile: maximum recursion"),
        ("{% for a in x %}" * 25 + "{% endfor %}" * 25, "the template does not compile: too many"),
        ("{{ " + "9" * 5000 + " }}", "the template does not compile: exceeds the limit"),
    ],
)
def test_a_template_that_does_not_compile_is_refused(source: str, message: str) -> None:
    """The message names the line, where the error has one."""
    with pytest.raises(JobError) as caught:
        Template(source)
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_missing_column_is_named() -> None:
    """The hint gives the nearest name and all columns."""
    with pytest.raises(JobError) as caught:
        check_columns(Template("{{ txt }}"), ["id", "Text"])
    assert caught.value.message == "column `txt` is not in the input"
    assert caught.value.hint == "did you mean `Text`? the columns are `id`, `Text`"


def test_a_missing_column_in_row_is_found() -> None:
    """A constant name in `row[...]` is checked as well."""
    with pytest.raises(JobError, match="column `Review` is not in the input"):
        check_columns(Template('{{ row["Review"] }}'), ["id"])


def test_a_template_without_columns_is_refused() -> None:
    """Such a prompt would be the same for all rows."""
    with pytest.raises(JobError, match="uses no column"):
        check_columns(Template("Hello"), ["id"])


def test_row_cannot_be_both() -> None:
    """With a column `row` in the input, `row[...]` is refused before any row fails."""
    with pytest.raises(JobError, match="`row` is a column of the input"):
        check_columns(Template('{{ row["x"] }}'), ["row", "x"])


def test_columns_come_in_input_order() -> None:
    """What is used is told in the order of the input; `row` as a whole means everything."""
    assert check_columns(Template("{{ a }}{{ b }}"), ["b", "c", "a"]) == ("b", "a")
    assert check_columns(Template("{{ row }}"), ["b", "c"]) == ("b", "c")


@pytest.mark.parametrize(
    "source",
    [
        "{{ x * 10**9 }}",
        "{{ 10**9 * x }}",
        "{{ [x] * 10**9 }}",
        "{{ 10**(10**10) }}{{ x }}",
        "{{ range(10**9) | list }}{{ x }}",
        "{{ x | center(10**9) }}",
        "{{ x.ljust(10**9) }}",
        "{{ x | indent(10**9) }}",
        "{{ 1.5 | round(10**9) }}{{ x }}",
        "{{ [x] | batch(10**9, x) | list }}",
        "{{ [x] | slice(10**9) | list }}",
        "{{ '%999999999d' | format(1) }}{{ x }}",
        "{{ '%*d' % (999999999, 1) }}{{ x }}",
        "{{ '{:999999999}'.format(x) }}",
        "{{ '{:{}}'.format(x, 999999999) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ x }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(t=x) %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
    ],
)
def test_absurd_sizes_are_refused(source: str) -> None:
    """A slip in a template costs its row, not the memory of the machine."""
    failure = Template(source).render({"x": "abcdefghij"})
    assert isinstance(failure, Failure)
    assert "Error" not in failure.message
    assert failure.kind in {FailureKind.TOO_LONG, FailureKind.TEMPLATE}


def test_a_prompt_that_no_model_can_read_is_too_long() -> None:
    """That is no fault of the template, and the reference has a kind for it."""
    failure = Template("{{ x }}").render({"x": "a" * 10_000_001})
    assert failure == Failure(
        FailureKind.TOO_LONG, "the template writes more than any model can read: shorten the row"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ id * 2 }} {{ id % 7 }} {{ id ** 2 }}", "246913578024 4 15241578753153483936144"),
        ("{{ '%s of %d%%' | format(id, 100000) }}", "123456789012 of 100000%"),
        ("{{ '{} {:>5}'.format(id, 'a') }}", "123456789012     a"),
        ("{{ 'ab' * 2 }}{{ ['a'] + ['b'] }}{{ 'a' ~ id }}", "abab['a', 'b']a123456789012"),
        ("{{ id | round(-3) | int }} {{ id | string | center(14) }}.", "123456789000  123456789012 ."),
        ("{{ id | string | truncate(6, true) }} {{ 'a b' | wordwrap(1) }}", "123... a\nb"),
    ],
)
def test_sizes_that_make_sense_are_not(source: str, expected: str) -> None:
    """Large numbers as values, and paddings of a sane size, work as Jinja documents them."""
    assert Template(source).render({"id": 123456789012}) == expected


def test_fields_win_over_methods() -> None:
    """Columns and fields called `items` or `values` are data."""
    order = {"items": ["a", "b"], "count": 2}
    assert Template("{{ order.items | join(', ') }} {{ order.count }}").render({"order": order}) == "a, b 2"
    template = Template("{{ row.values }} {{ row.keys }}")
    assert template.columns == ("keys", "values")
    assert template.render({"values": 1, "keys": 2}) == "1 2"


def test_all_columns_can_be_listed() -> None:
    """`row` is a mapping that can be walked through."""
    template = Template("{% for name, cell in row.items() %}{{ name }}={{ cell }};{% endfor %}")
    assert template.columns is None
    assert template.render({"a": None, "Odd name": 1}) == "a=;Odd name=1;"


def test_nulls_inside_lists_are_empty_text() -> None:
    """A joined list does not read "None", and its JSON says null."""
    values = {"x": ["a", None, {"b": None}]}
    assert Template("{{ x[:2] | join(',') }}").render(values) == "a,"
    assert Template("{{ x | tojson }}").render(values) == '["a", null, {"b": null}]'


@pytest.mark.parametrize(
    "name", ["class", "loop", "caller", "varargs", "lipsum", "config", "namespace", "if"]
)
def test_columns_may_have_the_names_of_words(name: str) -> None:
    """Words of Python and Jinja that mean nothing in this place are columns."""
    template = Template(f"{{{{ {name} }}}}")
    assert template.columns == (name,)
    assert template.render({name: "cell"}) == "cell"


def test_a_long_list_of_columns_is_cut() -> None:
    """A hint stays readable for a table of many columns."""
    with pytest.raises(JobError) as caught:
        check_columns(Template("{{ txt }}"), [f"c{number}" for number in range(500)])
    assert caught.value.hint.endswith("`c19` and 480 more")


def test_a_variable_may_replace_its_column() -> None:
    """A column that the template sets anew is still read first."""
    template = Template("{% if not x %}{% set x = 'none' %}{% endif %}{{ x }}")
    assert template.columns == ("x",)
    assert [template.render({"x": cell}) for cell in ("a", None)] == ["a", "none"]


@given(
    st.lists(
        st.sampled_from(["{{", "}}", "{%", "%}", " x ", "for ", "in ", "if ", "end", "|", "(", ".", "'", "1"])
    )
)
def test_any_source_compiles_or_is_refused(pieces: list[str]) -> None:
    """No template ends in a traceback."""
    try:
        prompt = Template("".join(pieces)).render({"x": "a"})
    except JobError as exc:
        assert exc.hint  # noqa: PT017 - it may come or not
    else:
        assert isinstance(prompt, str | Failure)


@pytest.mark.parametrize(
    ("source", "characters"),
    [
        ("Review: {{ text }}", 0),
        ("{{ text }}\nAnswer well.", 12),
        ("A {% if text %}{{ text }}{% else %}none{% endif %} B", 5),
        ("{{ row['text'] }} end", 3),
    ],
)
def test_fixed_text_behind_the_first_cell_is_counted(source: str, characters: int) -> None:
    """What no cache can hold, since something of the row stands before it."""
    assert Template(source).fixed_after == characters
