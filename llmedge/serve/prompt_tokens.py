"""How many tokens a chat call's prompt has, without generating anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmedge.engine.engine import Engine
    from llmedge.serve.answer import ChatCall, Responder


async def count_tokens(responder: Responder, engine: Engine, call: ChatCall) -> int:
    """Return the number of tokens that the model would read, with `bos` exactly once."""
    text = await engine.render(await responder.prompt(engine, call))
    bos = engine.info.bos
    has_bos = bool(bos) and text.startswith(bos)
    return len(await engine.tokenize(text, add_special=not has_bos, parse_special=True))
