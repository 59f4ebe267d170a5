import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from llmedge.core.errors import (
    ContextLengthError,
    EngineError,
    IntegrityError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from llmedge.engine.engine import Engine
from llmedge.engine.generation import (
    ChatPrompt,
    Constraint,
    Delta,
    Event,
    Finished,
    Generation,
    GenerationReport,
    Started,
    TextPrompt,
    TokenPrompt,
)
from llmedge.engine.patience import HangOptions
from llmedge.engine.process import EngineOptions, EngineProcess
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.engine.supervisor import WatchOptions
from llmedge.host.process import is_running
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.sampler import SamplingOptions

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's"),
]

GREEDY = SamplingOptions(temperature=0)
QUICK = WatchOptions(first_delay_s=0.05, max_delay_s=0.1)
OPTIONS = EngineOptions(
    context=ContextOptions(n_ctx=1024), scheduler=SchedulerOptions(n_slots=4), watch=QUICK
)
QUESTIONS = ("What is India?", "Name a river.", "Say hello.", "Count to five.")


@dataclass
class Answer:
    events: list[Event] = field(default_factory=list)
    error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def report(self) -> GenerationReport:
        (last,) = [event for event in self.events if isinstance(event, Finished)]
        return last.report


async def collect(
    engine: Engine, request: Generation, on_event: Callable[[Event], None] | None = None
) -> Answer:
    answer = Answer()
    try:
        async for event in engine.generate(request):
            answer.events.append(event)
            if on_event is not None:
                on_event(event)
    except EngineError as error:
        answer.error = error
    return answer


def ask(engine: Engine, *requests: Generation) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*(collect(engine, request) for request in requests))

    return asyncio.run(all_at_once())


def chat(question: str, **options: object) -> Generation:
    prompt = ChatPrompt([{"role": "user", "content": question}])
    return Generation(prompt, **{"max_tokens": 12, "sampling": GREEDY, **options})  # type: ignore[arg-type]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_of(engine: EngineProcess) -> int:
    assert engine.pid is not None
    return engine.pid


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[EngineProcess]:
    with EngineProcess.open(smollm2, "smollm2", OPTIONS) as engine:
        yield engine


@pytest.fixture
def fresh(smollm2: Path) -> Iterator[EngineProcess]:
    """An engine to be ill-treated."""
    with EngineProcess.open(smollm2, "smollm2", OPTIONS) as engine:
        yield engine


def test_the_model_is_described(engine: EngineProcess):
    info = engine.info
    assert (info.id, info.architecture, info.quant) == ("smollm2", "llama", "Q4_1")
    assert (info.n_ctx, info.n_slots, info.n_vocab, info.n_embd) == (1024, 4, 49152, 576)
    assert info.chat_template
    assert engine.state == "ready"


def test_four_requests_at_once_are_each_answered(engine: EngineProcess):
    answers = ask(engine, *(chat(question) for question in QUESTIONS))
    for answer in answers:
        assert isinstance(answer.events[0], Started)
        assert answer.report.n_generated <= 12
        assert answer.report.finish_reason in ("stop", "length")
        assert answer.text.strip()
    assert len({answer.text for answer in answers}) == 4


def test_a_text_is_the_same_alone_and_among_others(engine: EngineProcess):
    together = ask(engine, *(chat(question) for question in QUESTIONS))
    alone = [ask(engine, chat(question))[0] for question in QUESTIONS]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_a_seed_gives_the_same_text_again(engine: EngineProcess):
    request = chat("Tell me a story.", sampling=SamplingOptions(temperature=1.5, seed=0))
    first, second = ask(engine, request)[0], ask(engine, request)[0]
    assert first.text == second.text


def test_a_prompt_that_was_there_before_is_not_computed_again(engine: EngineProcess):
    request = chat("What is a lighthouse, and who lives in it?")
    ask(engine, request)
    (again,) = ask(engine, request)
    assert again.report.n_cached == again.report.n_prompt - 1


def test_another_key_shares_nothing(engine: EngineProcess):
    ask(engine, chat("Where do parrots live?", cache_key="one"))
    (other,) = ask(engine, chat("Where do parrots live?", cache_key="two"))
    assert other.report.n_cached == 0


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(engine: EngineProcess):
    (whole,) = ask(engine, chat("What is India?"))
    stop = whole.text.split()[2]
    (cut,) = ask(engine, chat("What is India?", stop=("not there", stop)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.report.finish_reason, cut.report.stop_text) == ("stop", stop)


def test_log_probabilities_are_those_of_the_tokens_of_the_text(engine: EngineProcess):
    (plain,) = ask(engine, chat("Name a river."))
    (answer,) = ask(engine, chat("Name a river.", n_logprobs=3))
    chances = [c for e in answer.events if isinstance(e, Delta) for c in e.chances]
    assert answer.text == plain.text == b"".join(c.chosen.piece for c in chances).decode()
    for chance in chances:
        assert len(chance.top) == 3
        assert chance.top[0] == chance.chosen  # temperature 0
        assert 0 >= chance.top[0].logprob >= chance.top[2].logprob
        assert sum(math.exp(one.logprob) for one in chance.top) <= 1.0001


def test_a_constrained_answer_is_what_was_asked_for(engine: EngineProcess):
    pytest.importorskip("llguidance")
    kind = Constraint("regex", "(ja|nein), [0-9]{3}")
    free, forced = ask(
        engine,
        chat("Say anything."),
        chat("Say anything.", constraint=kind, max_tokens=40, n_logprobs=0),
    )
    assert re.fullmatch(kind.text, forced.text)
    assert forced.report.finish_reason == "stop"
    assert not re.fullmatch(kind.text, free.text)


def test_a_constraint_that_cannot_be_met_is_refused_and_harms_nobody(engine: EngineProcess):
    pytest.importorskip("llguidance")
    with pytest.raises(UsageError):
        ask(engine, chat("Hello?", constraint=Constraint("regex", "^[z-a]$")))
    assert ask(engine, chat("Still there?"))[0].text


def test_an_answer_that_was_begun_goes_on(engine: EngineProcess):
    prompt = ChatPrompt(
        [
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "The capital of France is"},
        ],
        continues=True,
    )
    assert asyncio.run(engine.render(prompt)).endswith("The capital of France is")
    (answer,) = ask(engine, Generation(prompt, max_tokens=2, sampling=GREEDY))
    assert "Paris" in answer.text


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts(engine: EngineProcess):
    for prompt in (TokenPrompt([5] * 2000), TextPrompt("a b c " * 2000)):
        with pytest.raises(ContextLengthError, match="1024"):
            ask(engine, Generation(prompt))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Generation(TokenPrompt([])), UsageError),
        (Generation(TokenPrompt([49152])), UsageError),
        (Generation(TextPrompt("a"), stop=("",)), UsageError),
        (Generation(TextPrompt("a"), max_tokens=0), UsageError),
        (Generation(TextPrompt("\ud800")), UsageError),
        (Generation(TextPrompt("a"), adapters=(("poet", 1.0),)), UnsupportedError),
    ],
)
def test_what_cannot_be_meant_is_refused_as_what_it_is(
    engine: EngineProcess, request_: Generation, error: type[Exception]
):
    with pytest.raises(error):
        ask(engine, request_)
    assert ask(engine, chat("Still there?"))[0].text


def test_tokens_and_pieces_make_the_text_again(engine: EngineProcess):
    async def there_and_back() -> bytes:
        tokens = await engine.tokenize("नमस्ते <|im_end|>", add_special=True, parse_special=True)
        return b"".join(await engine.pieces(tokens))

    assert asyncio.run(there_and_back()).decode() == "नमस्ते <|im_end|>"


def test_closing_the_iterator_ends_the_request(engine: EngineProcess):
    async def leave_early() -> int:
        events = engine.generate(chat("Tell me a long story.", max_tokens=None))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()
        await collect(engine, chat("Say hello.", max_tokens=1))
        return (await engine.stats()).n_generated_tokens

    before = asyncio.run(engine.stats()).n_generated_tokens
    assert asyncio.run(leave_early()) - before < 60


def test_a_cancelled_prompt_is_not_computed_to_its_end(fresh: EngineProcess):
    n_prompt = 500  # one decode call

    async def give_up() -> int:
        events = fresh.generate(Generation(TokenPrompt(list(range(100, 100 + n_prompt)))))
        assert isinstance(await anext(events), Started)
        await asyncio.sleep(0.03)
        await events.aclose()
        await collect(fresh, chat("Next, please."))
        return (await fresh.stats()).n_cells_used

    assert asyncio.run(give_up()) < n_prompt


def test_a_reader_that_is_slow_misses_nothing_and_stalls_nobody(engine: EngineProcess):
    async def read_slowly() -> tuple[Answer, Answer]:
        events = engine.generate(chat("What is India?"))
        slow = Answer([await anext(events)])
        quick = await collect(engine, chat("What is India?"))
        slow.events += [event async for event in events]
        return slow, quick

    slow, quick = asyncio.run(read_slowly())
    assert slow.text == quick.text
    assert len(slow.events) <= len(quick.events)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_fails_the_requests_that_ran_and_the_next_is_right(
    fresh: EngineProcess, number: signal.Signals
):
    (expected,) = ask(fresh, chat("What is India?"))
    pid = pid_of(fresh)
    states: list[str] = []

    def kill(event: Event) -> None:
        if isinstance(event, Delta) and not states:
            os.kill(pid, number)
            states.append("killed")

    async def crash() -> list[Answer]:
        long = [chat(question, max_tokens=200, ignore_end=True) for question in QUESTIONS]
        return await asyncio.gather(*(collect(fresh, request, kill) for request in long))

    answers = asyncio.run(crash())
    for answer in answers:
        assert isinstance(answer.error, EngineError)
        assert number.name in answer.error.message
    assert fresh.state == "restarting"
    (after,) = ask(fresh, chat("What is India?"))
    assert after.text == expected.text
    assert (fresh.state, fresh.n_restarts) == ("ready", 1)
    assert not is_running(pid)


def test_a_process_that_hangs_is_replaced(smollm2: Path):
    options = replace(OPTIONS, watch=replace(QUICK, hang=HangOptions(still_s=3.0)))
    with EngineProcess.open(smollm2, "smollm2", options) as engine:
        os.kill(pid_of(engine), signal.SIGSTOP)
        (answer,) = ask(engine, chat("Are you there?"))
        assert answer.error is not None
        assert "hangs" in str(answer.error)
        assert ask(engine, chat("Are you there?"))[0].text


def test_an_idle_engine_may_be_silent(smollm2: Path):
    options = replace(OPTIONS, watch=replace(QUICK, hang=HangOptions(still_s=3.0)))
    with EngineProcess.open(smollm2, "smollm2", options) as engine:
        time.sleep(5)
        assert (engine.state, engine.n_restarts) == ("ready", 0)


def test_a_step_that_takes_longer_than_the_least_silence_is_no_hang(smollm2: Path):
    hang = HangOptions(still_s=3.0, least_s=0.0, first_s=60.0, n_paces=8.0)
    slow = replace(OPTIONS.context, n_batch=256, n_threads=1)
    options = replace(OPTIONS, context=slow, watch=replace(QUICK, hang=hang))
    with EngineProcess.open(smollm2, "smollm2", options) as engine:
        for n_prompt in (20, 500):
            prompt = TokenPrompt(list(range(100, 100 + n_prompt)))
            (answer,) = ask(engine, Generation(prompt, max_tokens=2))
            assert answer.error is None
        assert engine.n_restarts == 0
        _, token_s = engine._supervisor._pace()
        assert token_s is not None
        assert 0 < token_s < 10


def test_a_model_that_dies_three_times_while_loading_is_given_up(smollm2: Path):
    with EngineProcess(smollm2, "smollm2", OPTIONS) as engine:
        killed: set[int] = set()

        def is_over() -> bool:
            pid = engine.pid
            if pid is not None and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            return engine.state == "failed"

        wait_until(is_over)
        assert len(killed) == 3
        with pytest.raises(EngineError, match="SIGKILL"):
            engine.wait_loaded()
        assert "SIGKILL" in str(ask(engine, chat("Hello?"))[0].error)
    assert engine.state == "closed"


def test_a_file_that_is_no_model_is_refused_at_once(tmp_path: Path, tiny_copy: Path):
    with pytest.raises(NotFoundError):
        EngineProcess.open(tmp_path / "nothing.gguf", "nothing", OPTIONS)
    with tiny_copy.open("r+b") as file:
        file.truncate(tiny_copy.stat().st_size // 2)
    with pytest.raises(IntegrityError):
        EngineProcess.open(tiny_copy, "half", OPTIONS)


def test_closing_ends_the_process_and_all_that_waits(smollm2: Path):
    engine = EngineProcess.open(smollm2, "smollm2", OPTIONS)
    pid = pid_of(engine)

    def close(event: Event) -> None:
        if isinstance(event, Delta):
            threading.Thread(target=engine.close).start()

    answer = asyncio.run(
        collect(engine, chat("Tell me a story.", max_tokens=500, ignore_end=True), close)
    )
    assert "closed" in str(answer.error)
    engine.close()
    assert not is_running(pid)
    assert engine.state == "closed"
    assert "closed" in str(ask(engine, chat("Hello?"))[0].error)
    assert asyncio.run(engine.stats()).resident_bytes == 0


def test_the_process_ends_with_its_parent(smollm2: Path):
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from llmedge.engine.generation import Generation, TokenPrompt\n"
        "from llmedge.engine.process import EngineProcess\n"
        f"engine = EngineProcess.open(Path({str(smollm2)!r}), 'smollm2')\n"
        "async def go():\n"
        "    async for _ in engine.generate(Generation(TokenPrompt(list(range(100, 4000))))):\n"
        "        print(engine.pid, flush=True)\n"
        "asyncio.run(go())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_running(pid), timeout_s=10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_knows_no_secrets(smollm2: Path, monkeypatch: pytest.MonkeyPatch):
    secrets = ("HF_TOKEN", "OPENAI_API_KEY", "LLMEDGE_API_KEYS", "DB_PASSWORD", "HTTPS_PROXY")
    for name in secrets:
        monkeypatch.setenv(name, "hush")
    with EngineProcess.open(smollm2, "smollm2", OPTIONS) as engine:
        environment = Path(f"/proc/{engine.pid}/environ").read_bytes()
        assert b"hush" not in environment
        assert b"PATH=" in environment
        score = Path(f"/proc/{engine.pid}/oom_score_adj").read_text(encoding="ascii")
        assert int(score) == 500


LONG = "Tell me about rivers. " + "The Ganges and the Godavari flow through plains. " * 12


def test_what_was_computed_is_there_after_the_next_start(smollm2: Path, tmp_path: Path):
    options = replace(OPTIONS, cache_dir=tmp_path / "cache")
    questions = [chat(f"{LONG} Question {number}?", cache_key="alice") for number in range(3)]
    with EngineProcess.open(smollm2, "m", options) as engine:
        for question in questions:
            ask(engine, question)
        first = [ask(engine, question)[0] for question in questions]  # from all but one token
    assert len(list(tmp_path.glob("cache/*/*.state"))) == 3
    with EngineProcess.open(smollm2, "m", options) as engine:
        for question, before in zip(reversed(questions), reversed(first), strict=True):
            (again,) = ask(engine, question)
            # The same cells in other places are added up in another order.
            assert again.text.split()[:3] == before.text.split()[:3]
            assert again.report.n_cached == again.report.n_prompt - 1
        (other,) = ask(engine, chat(f"{LONG} Question 0?", cache_key="bob"))
        assert other.report.n_cached == 0


def test_a_damaged_state_is_computed_anew(smollm2: Path, tmp_path: Path):
    options = replace(OPTIONS, cache_dir=tmp_path / "cache")
    with EngineProcess.open(smollm2, "m", options) as engine:
        (first,) = ask(engine, chat(LONG))
    (path,) = tmp_path.glob("cache/*/*.state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with EngineProcess.open(smollm2, "m", options) as engine:
        (again,) = ask(engine, chat(LONG))
    assert (again.text, again.report.n_cached) == (first.text, 0)


def test_conversations_that_rest_are_found_again_outside_of_the_kv_cache(smollm2: Path):
    options = replace(OPTIONS, scheduler=SchedulerOptions(n_slots=2, n_idle=0))
    with EngineProcess.open(smollm2, "m", options) as engine:
        (first,) = ask(engine, chat(LONG))
        assert asyncio.run(engine.stats()).n_cells_cached == 0
        (again,) = ask(engine, chat(LONG))
    assert again.text == first.text
    assert again.report.n_cached == again.report.n_prompt - 1
