import json
import re
import time
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError, LlmedgeError, UnsupportedError, UsageError
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.model import Model, ModelOptions
from tests.fakes import works_or_is_refused
from tests.gguf_files import write_tiny_model

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, messages=HELLO, **options) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages, **options)


def test_the_embedded_models_template_renders_as_it_was_trained(loaded: Model):
    text = ChatTemplate.of_model(loaded).render(HELLO)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert "assistant\n" not in ChatTemplate.of_model(loaded).render(
        HELLO, add_generation_prompt=False
    )


def test_special_tokens_in_the_template_become_tokens(loaded: Model):
    tokens = ChatTemplate.of_model(loaded).tokenize(loaded, HELLO)
    texts = [loaded.vocab.text(token) for token in tokens]
    assert texts.count("<|im_start|>") == 3
    assert texts[0] == "<|im_start|>"


def test_the_beginning_of_text_stands_there_exactly_once(gemma3: Path, tiny_model: Path):
    for path, source in ((tiny_model, None), (gemma3, "x"), (gemma3, "{{ bos_token }}x")):
        with Model.load(path, ModelOptions(vocab_only=True)) as model:
            bos = model.vocab.text(model.vocab.bos)
            template = ChatTemplate(source, bos=bos) if source else ChatTemplate.of_model(model)
            tokens = template.tokenize(model, HELLO)
            assert tokens.count(model.vocab.bos) == 1
            assert model.vocab.starts_with_bos(tokens)


def test_a_model_without_a_template_says_so(tmp_path: Path):
    path = write_tiny_model(
        tmp_path / "plain.gguf", change=lambda w: w.kv_data[0].pop("tokenizer.chat_template")
    )
    with (
        Model.load(path, ModelOptions(vocab_only=True)) as model,
        pytest.raises(UnsupportedError, match=r"plain.gguf has no chat template") as caught,
    ):
        ChatTemplate.of_model(model)
    assert "/v1/completions" in caught.value.hint


def test_tojson_renders_as_transformers_does():
    value = {"नाम": "<b>'&\"", "n": 1}
    text = render("{{ messages[0].x | tojson }}", [{"x": value}])
    assert text == json.dumps(value, ensure_ascii=False)
    assert render("{{ [1, 2] | tojson(indent=2) }}") == "[\n  1,\n  2\n]"
    assert render("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}") == '{"a": 2, "b": 1}'


def test_loop_controls_work():
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(source) == "023"


def test_generation_blocks_render_as_they_are():
    assert render("a{% generation %}b{{ bos_token }}{% endgeneration %}c") == "ab<s>c"


def test_blocks_are_trimmed_as_transformers_trims_them():
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"


def test_the_time_can_be_asked_for():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_variables_reach_the_template():
    source = "{{ 'think' if enable_thinking else 'answer' }}"
    assert render(source, variables={"enable_thinking": True}) == "think"
    assert render(source) == "answer"


def test_a_template_may_refuse_messages_in_its_own_words():
    source = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UsageError, match="refuses the messages: roles must alternate"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('<no>' * 100000) }}",
        "{{ messages[0]['content' * 10000](1) }}",
        "{% 'a' " + "b" * 100_000,
    ],
)
def test_a_template_that_fails_does_so_in_few_words(source: str):
    with pytest.raises(LlmedgeError) as refused:
        render(source)
    assert len(refused.value.message) < 1200


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% endif %}", "{{" * 2000, "{% foo %}"])
def test_a_broken_template_is_damage(source: str):
    with pytest.raises(IntegrityError, match="template is broken"):
        ChatTemplate(source)


def test_a_huge_template_is_refused():
    with pytest.raises(IntegrityError, match="characters"):
        ChatTemplate("x" * (2 << 20))


DOUBLING = (
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(40) %}"
    "{% set n.s = n.s OP n.s %}{% endfor %}"
)
HOSTILE = {
    "attributes of the interpreter": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a function's globals": "{{ raise_exception.__globals__ }}",
    "the environment": "{{ self.__init__.__globals__ }}",
    "formatting into attributes": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "changing the messages": "{{ messages.append(1) }}",
    "importing": "{% import 'os' as os %}{{ os }}",
    "a long string": "{{ 'a' * 1000000000 }}",
    "a long string, other way": "{{ 1000000000 * 'a' }}",
    "a long list": "{{ [0] * 1000000000 }}",
    "a string repeated into a long one": "{% set a = 'a' * 9999 %}{{ a * 9999 * 9999 }}",
    "a huge number": "{{ 9 ** 99999999 }}",
    "a padded string": "{{ 'a'.ljust(1000000000) }}",
    "a padded number": "{{ '%1000000000d' % 1 }}",
    "a centred string": "{{ 'a' | center(1000000000) }}",
    "a deep indent": "{{ 'a\nb' | indent(1000000000) }}",
    "deep JSON": "{{ [1] | tojson(indent=1000000000) }}",
    "a long range": "{% for i in range(1000000000) %}{% endfor %}",
    "endless output": "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
    "a call that is no function": "{{ messages() }}",
    "an undefined name's attribute": "{{ nothing.at.all }}",
    "a number that is no text": "{{ 1 + 'a' }}",
    "text doubled in a loop": DOUBLING.replace("OP", "+"),
    "text joined in a loop": DOUBLING.replace("OP", "~"),
    "a number squared in a loop": DOUBLING.replace("OP", "*").replace("'aaaaaaaa'", "99999999"),
    "tabs expanded": "{{ ('\t' * 9999).expandtabs(9999) }}",
    "a wide format": "{{ '{:>300000000}'.format('a') }}",
    "a width from an argument": "{{ '{:{}}'.format('a', 300000000) }}",
    "a wide format filter": "{{ '%400000000d' | format(1) }}",
    "a width by a star": "{{ '%*d' % (400000000, 1) }}",
    "letters replaced by long texts": "{{ ('a' * 9999) | replace('a', 'b' * 9999) }}",
    "letters replaced by a method": "{{ ('a' * 9999).replace('a', 'b' * 9999) }}",
    "a long separator": "{{ ['a'] * 9999 | length }}{{ (['a'] * 9999) | join('b' * 9999) }}",
    "a long separator, by a method": "{{ ('b' * 9999).join(['a'] * 9999) }}",
    "loops in loops": "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "a recursion that doubles": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "no recursion's end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_template_ends_in_an_error_of_ours_or_in_nothing(what: str):
    start = time.monotonic()
    with works_or_is_refused():
        assert render(HOSTILE[what]) == ""  # what the sandbox hides is undefined, and renders so
    assert time.monotonic() - start < 5


def test_an_honest_template_is_far_from_the_budget():
    turns = [
        {"role": "user", "content": "x" * 2000},
        {"role": "assistant", "content": "y" * 2000},
    ] * 200
    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' ~ m.content | trim }}"
        "{% for word in m.content.split(' ') %}{{ word }}{% endfor %}"
        "{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}"
    )
    assert render(source, turns).count("<|user|>") == 200
    assert render("{% for k, v in messages[0].items() %}{{ loop.last }}{{ k }}{% endfor %}") == (
        "FalseroleTruecontent"
    )


def test_what_is_passed_to_every_template_is_none_and_not_missing():
    assert render("{{ tools is none }}{{ documents is none }}") == "TrueTrue"


def test_each_rendering_has_a_budget_of_its_own():
    template = ChatTemplate("{% for i in range(60000) %}{% endfor %}done")
    assert [template.render(HELLO) for _ in range(5)] == ["done"] * 5


def test_small_arithmetic_is_allowed():
    assert render("{{ 'ab' * 3 }}{{ 3 * 4 }}{{ 2 ** 8 }}{{ 7 % 3 }}{{ '-' * 80 }}") == (
        "ababab" + "12" + "256" + "1" + "-" * 80
    )
