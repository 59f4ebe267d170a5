"""llama-server's own completion, `POST /completion`: a text or tokens to go on with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from starlette.routing import Route

from llmedge.core.errors import UsageError
from llmedge.engine.generation import (
    Delta,
    Event,
    Finished,
    Generation,
    Progress,
    Started,
    TextPrompt,
    TokenPrompt,
)
from llmedge.serve.call_fields import refuse_media, stop_texts
from llmedge.serve.constraints import request_constraint
from llmedge.serve.errors import error_response
from llmedge.serve.exchange import (
    ending,
    json_response,
    read_request,
    shaped,
    start_all,
    told,
)
from llmedge.serve.native_answer import NativeAnswer, generation_settings, only
from llmedge.serve.native_schema import NativeCompletionRequest, TextWithMedia
from llmedge.serve.requests import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    check_tokens,
    ignored_header,
    lora_adapters,
    sampling_options,
)
from llmedge.serve.stream import (
    KEEP_ALIVE_S,
    encode_event,
    event_stream,
    gather,
    merge,
    unless_client_leaves,
)
from llmedge.serve.vectors import require_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from llmedge.engine.engine import Engine
    from llmedge.serve.answer import Responder

_Piece: TypeAlias = str | int
_Given: TypeAlias = str | TextWithMedia | list[_Piece | list[_Piece] | TextWithMedia]
_MAX_BIASED_TEXTS = 256


@dataclass(frozen=True, slots=True)
class _Job:
    """One text that is wanted: what makes it, and what writes it down."""

    events: AsyncIterator[Event]
    answer: NativeAnswer


def routes(responder: Responder, *, keep_alive_s: float = KEEP_ALIVE_S) -> list[Route]:
    """Return the route.

    Args:
        responder: Finds models.
        keep_alive_s: Silence in a stream after which the client is told that it is not over.
    """
    handler = _Handler(responder, keep_alive_s)
    return [Route("/completion", shaped(handler.complete, error_response), methods=["POST"])]


class _Handler:
    def __init__(self, responder: Responder, keep_alive_s: float) -> None:
        self._responder = responder
        self._keep_alive_s = keep_alive_s

    async def complete(self, request: Request) -> Response:
        body, ignored = await read_request(request, NativeCompletionRequest)
        prompts = _prompts(body.prompt)
        engine = await unless_client_leaves(request, self._responder.model(body.model))
        jobs = await unless_client_leaves(request, _jobs(engine, body, prompts))
        headers = ignored_header(ignored)
        if body.stream:
            return await self._stream(request, jobs, headers)
        work = [ending(job.events, _collect(job, body.response_fields)) for job in jobs]
        answers = await unless_client_leaves(request, gather(work))
        return json_response(answers if len(answers) > 1 else answers[0], headers=headers)

    async def _stream(
        self, request: Request, jobs: Sequence[_Job], headers: dict[str, str]
    ) -> Response:
        begun = await start_all(request, [job.events for job in jobs])
        for job, started in zip(jobs, begun, strict=True):
            job.answer.start(started.n_prompt)
        return event_stream(told(_events(jobs)), headers, ping_s=self._keep_alive_s)


async def _jobs(
    engine: Engine, body: NativeCompletionRequest, prompts: list[list[_Piece]]
) -> list[_Job]:
    """Make ready what was asked for; nothing is begun yet."""
    await _name_biased_tokens(engine, body)
    base = _generation(body)
    settings = generation_settings(
        base.sampling,
        n_predict=-1 if base.max_tokens is None else base.max_tokens,
        n_probs=body.n_probs or 0,
        stop=list(base.stop),
        ignore_eos=base.ignore_end,
        stream=bool(body.stream),
        post_sampling_probs=bool(body.post_sampling_probs),
        timings_per_token=base.tells_times,
    )
    jobs: list[_Job] = []
    for index, pieces in enumerate(prompts):
        prompt, text = await _prompt(engine, pieces)
        generation = msgspec.structs.replace(base, prompt=prompt)
        check_tokens(generation, engine.info)
        answer = NativeAnswer(
            index,
            model=engine.info.id,
            prompt=text,
            settings=settings,
            keeps_tokens=bool(body.return_tokens),
            is_after=bool(body.post_sampling_probs),
        )
        jobs.append(_Job(engine.generate(generation), answer))
    return jobs


def _generation(body: NativeCompletionRequest) -> Generation:
    n_probs = body.n_probs or 0
    if not 0 <= n_probs <= MAX_LOGPROBS:
        raise UsageError(f"n_probs is {n_probs}, not from 0 to {MAX_LOGPROBS}")
    return Generation(
        TextPrompt(""),
        max_tokens=_max_tokens(body),
        stop=stop_texts(body.stop),
        stop_tokens=tuple(body.stop_token_ids or ()),
        sampling=sampling_options(body),
        ignore_end=bool(body.ignore_eos),
        n_logprobs=n_probs or None,
        constraint=request_constraint(body),
        adapters=lora_adapters(body),
        caches=body.cache_prompt is not False,
        tells_chances_after=bool(body.post_sampling_probs),
        tells_tokens=bool(body.return_tokens or body.stream),
        tells_progress=bool(body.return_progress and body.stream),
        tells_times=bool(body.timings_per_token and body.stream),
    )


def _max_tokens(body: NativeCompletionRequest) -> int | None:
    n = body.max_tokens if body.n_predict is None else body.n_predict
    if n is None or n == -1:
        return None
    if not 1 <= n < 1 << 31:
        raise UsageError(f"n_predict is {n}, not -1 or at least 1")
    return n


def _prompts(given: _Given) -> list[list[_Piece]]:
    """Return each prompt as what it is put together from."""
    if not isinstance(given, list):
        return [[_text(given)]]
    in_a_row = [item for item in given if isinstance(item, int | str)]
    if len(in_a_row) == len(given) and any(isinstance(item, int) for item in given):
        return [in_a_row]
    prompts: list[list[_Piece]] = []
    for item in given:
        if isinstance(item, int):
            raise UsageError("prompt mixes tokens with lists of them")
        prompts.append(item if isinstance(item, list) else [_text(item)])
    if not 1 <= len(prompts) <= MAX_CHOICES:
        raise UsageError(f"prompt has {len(prompts)} texts, not 1 to {MAX_CHOICES}")
    return prompts


def _text(item: str | TextWithMedia) -> str:
    if isinstance(item, str):
        return item
    if item.multimodal_data:
        raise refuse_media("multimodal_data")
    return item.prompt_string


async def _prompt(engine: Engine, pieces: list[_Piece]) -> tuple[TextPrompt | TokenPrompt, str]:
    """Return a prompt, and its text."""
    if len(pieces) == 1 and isinstance(pieces[0], str):
        return TextPrompt(pieces[0]), pieces[0]
    tokens: list[int] = []
    for at, piece in enumerate(pieces):
        if isinstance(piece, int):
            tokens.append(piece)
        else:
            tokens += await engine.tokenize(str(piece), add_special=at == 0, parse_special=True)
    require_tokens(tokens, engine.info, "prompt")
    return TokenPrompt(tokens), b"".join(await engine.pieces(tokens)).decode(errors="replace")


async def _name_biased_tokens(engine: Engine, body: NativeCompletionRequest) -> None:
    """Put the tokens of texts in their place where `logit_bias` names texts."""
    given = body.logit_bias
    pairs = list(given.items()) if isinstance(given, dict) else given or []
    if len(pairs) > _MAX_BIASED_TEXTS * 4:
        raise UsageError(f"logit_bias names {len(pairs)} tokens, not up to {_MAX_BIASED_TEXTS * 4}")
    named: list[tuple[int | str, float | bool]] = []
    for name, bias in pairs:
        if isinstance(name, int) or (name.isascii() and name.isdecimal()):
            named.append((name, bias))
            continue
        tokens = await engine.tokenize(name, add_special=False, parse_special=True)
        named += [(token, bias) for token in tokens]
    body.logit_bias = named or None


async def _collect(job: _Job, fields: Sequence[str] | None) -> dict[str, Any]:
    async for event in job.events:
        match event:
            case Delta():
                job.answer.add(event)
            case Finished(report):
                answer = job.answer.whole(report)
                return only(answer, fields) if fields else answer
            case Started() | Progress():
                pass
    raise RuntimeError("the answer has no end")


async def _events(jobs: Sequence[_Job]) -> AsyncIterator[bytes]:
    sources = [job.events for job in jobs]
    async with contextlib.aclosing(merge(sources)) as events:
        async for index, event in events:
            match event:
                case Delta():
                    yield encode_event(jobs[index].answer.add(event))
                case Progress():
                    yield encode_event(jobs[index].answer.progress(event))
                case Finished(report):
                    yield encode_event(jobs[index].answer.last(report))
                case Started():
                    pass
