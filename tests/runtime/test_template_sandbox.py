import pytest
from jinja2.exceptions import SecurityError

from llmedge.runtime.template_sandbox import MAX_STEPS, BudgetSandbox, BudgetSpent


@pytest.fixture
def sandbox() -> BudgetSandbox:
    return BudgetSandbox([])


def render(sandbox: BudgetSandbox, source: str, **values: object) -> str:
    sandbox.start()
    return sandbox.compile_counted(source).render(**values)


def test_loops_over_what_has_a_length_and_over_what_has_none(sandbox: BudgetSandbox):
    assert render(sandbox, "{% for x in xs %}{{ x }}{% endfor %}", xs=[1, 2]) == "12"
    assert render(sandbox, "{% for x in xs | select %}{{ x }}{% endfor %}", xs=[1, 0, 2]) == "12"
    assert render(sandbox, "{% for x in missing %}{{ x }}{% else %}none{% endfor %}") == "none"


def test_nested_and_recursive_loops_still_work(sandbox: BudgetSandbox):
    tree = [{"n": 1, "below": [{"n": 2, "below": []}]}]
    source = "{% for t in tree recursive %}{{ t.n }}{{ loop(t.below) }}{% endfor %}"
    assert render(sandbox, source, tree=tree) == "12"


def test_texts_and_numbers_are_joined_as_before(sandbox: BudgetSandbox):
    assert render(sandbox, "{{ 'a' ~ 1 ~ none ~ [2] }}") == "a1None[2]"
    assert render(sandbox, "{{ 'a' + 'b' }}{{ 1 + 2 }}{{ [1] + [2] }}") == "ab3[1, 2]"
    assert (
        render(sandbox, "{{ 'a-b' | replace('-', '+') }}{{ ['a', 'b'] | join(', ') }}") == "a+ba, b"
    )
    assert render(sandbox, "{{ 'a\nb' | indent(2) }}") == "a\n  b"


def test_the_budget_counts_rounds_and_calls_together(sandbox: BudgetSandbox):
    half = MAX_STEPS // 2
    loop = f"{{% for i in range({min(half, 90_000)}) %}}{{% endfor %}}"
    assert render(sandbox, loop) == ""
    with pytest.raises(BudgetSpent):
        render(sandbox, loop * 3)
    assert render(sandbox, loop) == ""


def test_what_would_be_large_is_refused_before_it_is_made(sandbox: BudgetSandbox):
    for source in (
        "{{ a + a }}",
        "{{ a ~ a }}",
        "{{ a | replace('x', 'yy') }}",
        "{{ [a, a] | join }}",
    ):
        with pytest.raises(SecurityError, match="large"):
            render(sandbox, source, a="x" * (3 << 20))
