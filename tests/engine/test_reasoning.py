"""The bound of reasoning: by itself, and in an engine whose text it bounds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.chat_format.detect import ChatFormat, ReasoningMarks
from llmedge.chat_format.forced import call_grammar
from llmedge.chat_format.tools import ToolChoice, parse_tools
from llmedge.core.errors import UnsupportedError
from llmedge.engine.core import EngineCore, open_core
from llmedge.engine.generation import (
    Constraint,
    Delta,
    Finished,
    Generation,
    GenerationReport,
    ReasoningLimit,
    TextPrompt,
)
from llmedge.engine.messages import Load
from llmedge.engine.reasoning import ReasoningWatch
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions
from llmedge.runtime.sampler import SamplingOptions

CLOSING = [1001, 1002]
THINK = ("<think>", "</think>", "\n</think>\n\n")


def limit(n_max: int, *, is_open: bool = True) -> ReasoningLimit:
    return ReasoningLimit(n_max, *THINK, is_open)


def written(watch: ReasoningWatch, pieces: list[bytes]) -> list[int]:
    """The tokens of a text: the model's own by their place, and those that were forced."""
    text: list[int] = []
    for place, piece in enumerate(pieces):
        while watch.forced is not None:
            text.append(watch.forced)
            watch.see(watch.forced, b"?")
        watch.see(place, piece)
        text.append(place)
    return text


@pytest.mark.parametrize(
    ("n_max", "is_open", "pieces", "wanted"),
    [
        (2, True, [b"a", b"b", b"c", b"d"], [0, 1, *CLOSING, 2, 3]),
        (0, True, [b"a", b"b"], [*CLOSING, 0, 1]),
        (2, True, [b"a", b"</th", b"ink>", b"c", b"d"], [0, 1, *CLOSING, 2, 3, 4]),
        (3, True, [b"a", b"</th", b"ink>", b"c", b"d"], [0, 1, 2, 3, 4]),
        (1, False, [b"a", b"b", b"<think>", b"c", b"d"], [0, 1, 2, 3, 4]),
        (1, False, [b"\n", b" <thi", b"nk>", b"c", b"d"], [0, 1, 2, 3, *CLOSING, 4]),
        (0, False, [b"<think>", b"c"], [0, *CLOSING, 1]),
        (0, False, [b"<think></think>", b"c"], [0, 1]),
        # a character is written to its end
        (1, True, [b"\xe0\xa4", b"\xaa", b"c", b"d"], [0, 1, *CLOSING, 2, 3]),
    ],
)
def test_reasoning_is_closed_once_it_has_taken_its_tokens(n_max, is_open, pieces, wanted):
    assert written(ReasoningWatch(limit(n_max, is_open=is_open), CLOSING), pieces) == wanted


@given(
    text=st.text(alphabet="a<think>/ \né", max_size=40), n_max=st.integers(0, 50), data=st.data()
)
def test_it_closes_what_is_open_and_nothing_else(text: str, n_max: int, data: st.DataObject):
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=20)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if raw[a:b]]
    tokens = written(ReasoningWatch(limit(n_max), CLOSING), pieces)
    n_own = next((at for at, token in enumerate(tokens) if token in CLOSING), len(tokens))
    assert [token for token in tokens if token not in CLOSING] == list(range(len(pieces)))
    before = b"".join(pieces[:n_own])
    if n_own < len(tokens):
        assert n_max <= n_own <= n_max + 1  # é has two bytes
        assert b"</think>" not in before
        before.decode()
    else:
        assert len(pieces) <= n_max + 2 or b"</think>" in raw


def test_another_token_than_the_forced_one_is_a_bug():
    with pytest.raises(ValueError, match="7"):
        ReasoningWatch(limit(0), CLOSING).see(7, b"x")


def opened(path: Path, n_draft: int = 0) -> EngineCore:
    context = ContextOptions(n_ctx=512, n_batch=128, n_seq_max=4, n_threads=1)
    options = SchedulerOptions(n_slots=2)
    draft = bytes(path) if n_draft else b""
    load = Load(bytes(path), "model", ModelOptions(), context, options, n_draft, draft)
    return open_core(load, lambda _: True)


def run(core: EngineCore, request: Generation) -> tuple[str, GenerationReport]:
    core.add(0, core.clerk.prepare(request))
    text = ""
    while not core.is_idle:
        for _, answer in core.step():
            assert isinstance(answer, Delta | Finished), answer
            if isinstance(answer, Finished):
                return text, answer.report
            text += answer.text
    raise AssertionError("no end")


def asked(reasoning: ReasoningLimit | None = None, **options: object) -> Generation:
    chosen = {
        "max_tokens": 40,
        "sampling": SamplingOptions(temperature=0.8, seed=5, repeat_penalty=1.1),
        "ignore_end": True,
        "shows_special": True,
        **options,
    }
    return Generation(TextPrompt("one"), reasoning=reasoning, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_draft", [0, 3])
def test_an_engine_writes_the_mark_at_the_limit_and_goes_on(tiny_model: Path, n_draft: int):
    with opened(tiny_model) as plain:
        free, _ = run(plain, asked())
    with opened(tiny_model, n_draft) as core:
        assert run(core, asked(limit(100)))[0] == free  # not reached: the same to the letter
        text, report = run(core, asked(limit(9), n_logprobs=1))
        at = text.index(THINK[2])
        assert free.startswith(text[:at])
        assert 0 < at <= 12  # a byte is a token
        assert len(text) > at + len(THINK[2]) + 3
        assert report.n_generated == 40
        assert run(core, asked(limit(0)))[0].startswith(THINK[2])


def test_what_follows_the_forced_mark_is_held_to_its_grammar(smollm2: Path):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    form = ChatFormat("hermes", ReasoningMarks(*THINK))
    with opened(smollm2) as core:
        for mode in ("required", "auto"):
            grammar = call_grammar(form, parse_tools([tool]), ToolChoice(mode), is_reasoning=True)
            assert grammar is not None
            constraint = Constraint("lark", grammar)
            wanted = asked(limit(3), constraint=constraint, ignore_end=False, max_tokens=20)
            text, _ = run(core, wanted)
            thought, mark, rest = text.partition(THINK[2])
            assert thought
            assert mark
            assert rest.lstrip().startswith("<tool_call>") or mode == "auto"


def test_a_mark_that_cannot_be_written_is_an_error(tiny_model: Path, monkeypatch):
    with opened(tiny_model) as core:
        monkeypatch.setattr(core.clerk._vocab, "tokenize", lambda *_, **__: [3])
        with pytest.raises(UnsupportedError, match="no tokens that write"):
            core.clerk._inside("</think>")
