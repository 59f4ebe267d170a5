import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmedge.core.errors import ResourceError, UnsupportedError, UsageError
from llmedge.runtime import constraint as module
from llmedge.runtime.batch import Batch
from llmedge.runtime.constraint import Constraint, ConstraintFactory, ConstraintKind
from llmedge.runtime.context import Context
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.sampler import SamplerChain, SamplingOptions
from llmedge.runtime.vocab import Vocab
from tests.gguf_files import replace_value, write_tiny_model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def factory(loaded: Model) -> ConstraintFactory:
    return ConstraintFactory.of_vocab(loaded.vocab)


@pytest.fixture(scope="module", params=["smollm2", "gemma3", "tiny_model"])
def vocab(request: pytest.FixtureRequest):
    path: Path = request.getfixturevalue(request.param)
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        yield model.vocab


def write(context: Context, constraint: Constraint, prompt: str, *, seed: int = 1) -> str:
    """Let the model write under a constraint, to the end of its text."""
    vocab, written = context.model.vocab, list[int]()
    options = SamplingOptions(temperature=1.2, seed=seed)
    context.clear()
    with Batch(64) as batch, SamplerChain(options, vocab) as chain:
        batch.fill(vocab.tokenize(prompt), 0)
        position = batch.n_tokens
        for _ in range(200):
            context.decode(batch)
            constraint.mask(context.logits()[0])
            token = chain.sample(context)
            constraint.accept(token)
            if vocab.is_end(token):
                assert constraint.is_complete
                return vocab.detokenize(written)
            written.append(token)
            batch.fill([token], position)
            position += 1
    raise AssertionError(f"no end: {vocab.detokenize(written)}")


def allowed(vocab: Vocab, constraint: Constraint) -> set[int]:
    row = np.zeros(vocab.n_tokens, dtype=np.float32)
    constraint.mask(row)
    return set(np.flatnonzero(np.isfinite(row)).tolist())


@pytest.mark.parametrize("seed", range(3))
def test_a_hot_model_writes_what_the_schema_wants(
    context: Context, factory: ConstraintFactory, seed: int
):
    constraint = factory.compile("json_schema", json.dumps(PERSON))
    person = json.loads(write(context, constraint, "A person:", seed=seed))
    assert person.keys() == {"name", "age"}
    assert 0 <= person["age"] <= 150
    assert len(person["name"]) <= 12


@pytest.mark.parametrize(
    ("kind", "text", "answers"),
    [
        ("regex", "(yes|no) क्या[0-9]", {f"{a} क्या{n}" for a in ("yes", "no") for n in range(10)}),
        ("lark", 'start: animal "!"\nanimal: "cat" | "dog"', {"cat!", "dog!"}),
        ("gbnf", 'root ::= animal "!"\nanimal ::= "cat" | "dog"', {"cat!", "dog!"}),
        ("json_schema", '{"enum": ["नमस्ते", 7]}', {'"नमस्ते"', "7"}),
    ],
)
def test_each_language_of_constraints_is_kept(
    context: Context,
    factory: ConstraintFactory,
    kind: ConstraintKind,
    text: str,
    answers: set[str],
):
    assert write(context, factory.compile(kind, text), "So:") in answers


def test_any_json_object_is_an_object(vocab: Vocab):
    constraint = ConstraintFactory.of_vocab(vocab).compile("json_object")
    for token in vocab.tokenize('\n{"a": [1, null], "क": {"b": "\\n"}}')[-40:]:
        piece = vocab.piece(token)
        if piece.strip():
            constraint.accept(token)
    assert constraint.is_complete
    assert all(vocab.is_end(token) for token in allowed(vocab, constraint) if token < 3)


def test_control_tokens_come_only_where_a_grammar_names_them(loaded: Model):
    vocab = loaded.vocab
    factory = ConstraintFactory.of_vocab(vocab)
    (start,) = vocab.tokenize("<|im_start|>", parse_special=True)
    everything = allowed(vocab, factory.compile("regex", r"(.|\n)*"))
    assert start not in everything
    assert vocab.eos in everything
    assert len(everything) > 40_000
    assert allowed(vocab, factory.compile("lark", 'start: <|im_start|> "a"')) == {start}


def test_a_mask_leaves_the_allowed_logits_as_they_are_and_bans_the_padding(loaded: Model):
    n_vocab = loaded.vocab.n_tokens
    constraint = ConstraintFactory.of_vocab(loaded.vocab).compile("regex", "[ab]")
    random = np.random.default_rng(0).standard_normal(n_vocab + 64).astype(np.float32)
    masked = random.copy()
    constraint.mask(masked)
    kept = np.flatnonzero(np.isfinite(masked))
    assert {loaded.vocab.piece(int(token)) for token in kept} == {b"a", b"b"}
    assert (masked[kept] == random[kept]).all()


def test_what_must_come_is_known_as_the_vocabulary_writes_it(vocab: Vocab):
    constraint = ConstraintFactory.of_vocab(vocab).compile("lark", 'start: "hello world" /[0-9]/')
    forced = constraint.forced_tokens()
    assert b"hello world".startswith(b"".join(vocab.piece(token) for token in forced))
    assert forced
    for token in forced:
        assert token in allowed(vocab, constraint)
        constraint.accept(token)


def test_a_token_that_may_not_come_is_refused_for_good(loaded: Model, factory: ConstraintFactory):
    constraint = factory.compile("regex", "[0-9]+")
    with pytest.raises(UsageError):
        constraint.accept(loaded.vocab.tokenize("a")[0])
    with pytest.raises(UsageError):
        constraint.mask(np.zeros(loaded.vocab.n_tokens, dtype=np.float32))


def chain_of_rules(n: int) -> str:
    rules = "".join(f"a{i}: a{i + 1} | /x/\n" for i in range(n))
    return f'start: a0\n{rules}a{n}: "y"'


def nested(n: int) -> str:
    return '{"type":"object","properties":{"a":' * n + "{}" + "}}" * n


def all_of(n: int) -> str:
    return json.dumps({"allOf": [{"pattern": f".*{'ab' * i}.*"} for i in range(1, n)]})


HOSTILE: dict[str, tuple[ConstraintKind, str]] = {
    "an undefined rule": ("lark", "start: missing"),
    "left recursion without an end": ("lark", "start: a\na: a"),
    "deep parentheses": ("lark", f'start: {"(" * 20_000}"a"{")" * 20_000}'),
    "an impossible class in a grammar": ("lark", "start: /[z-a]/"),
    "terminals that explode": (
        "lark",
        "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(40)) + 'A40: "y"',
    ),
    "an empty grammar": ("lark", ""),
    "a file": ("lark", '%import "/etc/passwd"\nstart: "a"'),
    "an impossible class": ("regex", "^[z-a]$"),
    "a pattern of deep groups": ("regex", "(" * 20_000 + "a" + ")" * 20_000),
    "a look-ahead": ("regex", "(?=a)b"),
    "half a character": ("regex", "\ud800"),
    "a long text": ("regex", "a" * (module.MAX_TEXT_BYTES + 1)),
    "an undefined rule in gbnf": ("gbnf", "root ::= missing"),
    "deep parentheses in gbnf": ("gbnf", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "a broken gbnf": ("gbnf", 'root ::= "a'),
    "an impossible class in gbnf": ("gbnf", "root ::= [z-a]"),
    "no language": ("latin", "a"),  # type: ignore[dict-item]
    "an impossible pattern": ("json_schema", '{"type": "string", "pattern": "^[z-a]$"}'),
    "a dangling reference": ("json_schema", '{"$ref": "#/$defs/x"}'),
    "a reference to another machine": ("json_schema", '{"$ref": "http://example.com/a.json"}'),
    "a reference to itself": ("json_schema", '{"$ref": "#"}'),
    "a schema nested 1000 deep": ("json_schema", nested(1000)),
    "a list nested 30,000 deep": ("json_schema", "[" * 30_000),
    "patterns without an end": ("json_schema", all_of(16)),
    "a schema that nothing matches": (
        "json_schema",
        '{"type": "integer", "minimum": 1, "maximum": 0}',
    ),
    "an ignored keyword": ("json_schema", '{"type": "array", "uniqueItems": true}'),
    "an ignored keyword asked for": (
        "json_schema",
        '{"x-guidance": {"lenient": true}, "type": "string", "format": "unheard-of"}',
    ),
    "no JSON": ("json_schema", '{"a'),
    "not a number": ("json_schema", '{"const": NaN}'),
    "no schema": ("json_schema", "3"),
    "no type": ("json_schema", '{"type": "strang"}'),
    "a list of properties": ("json_schema", '{"properties": ["a"]}'),
    "a huge number": ("json_schema", '{"type": "number", "minimum": 1e400}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_kept_is_refused_at_once(factory: ConstraintFactory, name: str):
    kind, text = HOSTILE[name]
    factory.compile("regex", "a")
    begun = time.perf_counter()
    with pytest.raises(UsageError) as refused:
        factory.compile(kind, text)
    assert time.perf_counter() - begun < 1.5
    assert len(refused.value.message) < 400
    factory.compile("regex", "a")  # and the next can be compiled


ENDLESS: dict[str, tuple[ConstraintKind, str]] = {
    "rules that explode": (
        "lark",
        "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(40)) + 'a40: "y"',
    ),
    "nested repetitions of a grammar": ("lark", 'start: ((("a"{1000}){1000}){1000}){1000}'),
    "nested repetitions": ("regex", "(((a{1000}){1000}){1000}){1000}"),
    "a long repetition": ("regex", "a{1000000000}"),
    "a long constant": ("json_schema", json.dumps({"const": "a" * 30_000})),
    "a pattern with many states": ("regex", "(a|b)*a(a|b){18}"),
    "thousands of rules": ("lark", chain_of_rules(3000)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_text_too_long_to_be_written_costs_no_more_than_others(
    loaded: Model, factory: ConstraintFactory, name: str
):
    factory.compile("regex", "a")
    begun = time.perf_counter()
    with contextlib.suppress(UsageError):  # it may give up, and then it says so
        constraint = factory.compile(*ENDLESS[name])
        for _ in range(3):
            row = np.zeros(loaded.vocab.n_tokens, dtype=np.float32)
            constraint.mask(row)
            constraint.accept(int(row.argmax()))
    assert time.perf_counter() - begun < 3


def test_a_compilation_without_an_end_is_left_alone(loaded: Model, monkeypatch: pytest.MonkeyPatch):
    factory = ConstraintFactory.of_vocab(loaded.vocab)
    factory.compile("regex", "a")
    monkeypatch.setattr(module, "MAX_COMPILE_S", 0.0)
    slow = chain_of_rules(2000)
    with pytest.raises(UsageError, match="takes more than"):
        factory.compile("lark", slow)
    assert factory._unfinished is not None
    if factory._unfinished.is_alive():
        with pytest.raises(module.ResourceError):
            factory.compile("regex", "a")
        factory._unfinished.join()
    monkeypatch.undo()
    factory.compile("regex", "a")


@pytest.mark.skipif(sys.platform == "win32", reason="reserves no address space")
def test_without_memory_for_a_thread_the_request_is_told_so_and_the_next_works(
    factory: ConstraintFactory, monkeypatch: pytest.MonkeyPatch
):
    stack_bytes = module._STACK_BYTES
    monkeypatch.setattr(module, "_STACK_BYTES", 1 << 46)  # no machine has it
    with pytest.raises(ResourceError, match="no memory to compile"):
        factory.compile("regex", "a")
    monkeypatch.setattr(module, "_STACK_BYTES", stack_bytes)
    factory.compile("regex", "a")


def test_a_vocabulary_without_an_end_forces_nothing(tmp_path: Path):
    def no_control(writer: object) -> None:
        replace_value(writer, "tokenizer.ggml.token_type", [1] * 3 + [6] * 256 + [1])  # type: ignore[arg-type]
        replace_value(
            writer,
            "tokenizer.ggml.tokens",
            [b"x", b"y", b"z", *[f"<0x{n:02X}>".encode() for n in range(256)], b" "],
        )  # type: ignore[arg-type]

    path = write_tiny_model(tmp_path / "no-end.gguf", change=no_control)
    with Model.load(path, ModelOptions(vocab_only=True)) as model:
        factory = ConstraintFactory.of_vocab(model.vocab)
        with pytest.raises(UnsupportedError):
            factory.compile("regex", "a")
