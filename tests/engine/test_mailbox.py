import asyncio

import pytest

from llmedge.core.errors import EngineError
from llmedge.engine.generation import Delta, GenerationReport, Started, TokenChance, TokenChances
from llmedge.engine.mailbox import Mailbox


def test_a_quick_reader_gets_each_word_by_itself():
    async def run() -> list[object]:
        box, words = Mailbox(), []
        for word in (Started(3), Delta("a"), Delta("b")):
            box.put(word)
            words.append(await box.take())
        return words

    assert asyncio.run(run()) == [Started(3), Delta("a"), Delta("b")]


def test_a_slow_reader_gets_all_text_at_once_and_the_error_after_it():
    chances = [TokenChances(TokenChance(number, b"x", -1.0)) for number in range(1000)]

    async def run() -> list[object]:
        box = Mailbox()
        box.put(Started(3))
        for number, chance in enumerate(chances):
            box.put(Delta(f"{number} ", [chance]))
        box.put(EngineError("over"))
        words = [await box.take(), await box.take()]
        with pytest.raises(EngineError, match="over"):
            await box.take()
        return words

    text = "".join(f"{number} " for number in range(1000))
    assert asyncio.run(run()) == [Started(3), Delta(text, chances)]


def test_what_waits_is_few_words_however_many_came():
    async def run() -> int:
        box = Mailbox()
        most = 0
        for _ in range(10_000):
            box.put(Delta("x"))
            most = max(most, len(box))
        return most

    assert asyncio.run(run()) <= 64


def test_a_reader_sleeps_until_there_is_a_word():
    async def run() -> bool:
        box = Mailbox()
        reader = asyncio.create_task(box.take())
        await asyncio.sleep(0)
        was_asleep = not reader.done()
        box.put(Delta("late"))
        assert await reader == Delta("late")
        return was_asleep

    assert asyncio.run(run())


def test_joined_parts_keep_all_tokens_and_the_latest_report():
    reports = [GenerationReport(3, 0, n, 0.0, 0.1, 0.1 * n, "length") for n in (1, 2)]

    async def run() -> object:
        box = Mailbox()
        box.put(Delta("a", [], [1], reports[0]))
        box.put(Delta("b", [], [2], reports[1]))
        return await box.take()

    assert asyncio.run(run()) == Delta("ab", [], [1, 2], reports[1])
