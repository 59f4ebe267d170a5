"""The chat template of a checkpoint: found in one of three places, rendered once in the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmedge.convert.tokenizer_files import TokenizerConfig, broken, read_bytes, read_config
from llmedge.core.errors import IntegrityError, LlmedgeError, UsageError
from llmedge.runtime.chat_template import ChatTemplate

if TYPE_CHECKING:
    from pathlib import Path

_MAX_TEMPLATE_BYTES = 4 << 20


class _ChatTemplateJson(msgspec.Struct, frozen=True):
    chat_template: str


def find_template(folder: Path) -> str | None:
    """Find the template: chat_template.jinja, chat_template.json, tokenizer_config.json.

    Raises:
        IntegrityError: A file is malformed.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            return read_bytes(jinja, _MAX_TEMPLATE_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise broken(jinja, f"it is not UTF-8: {error.reason}") from None
    single = read_config(folder / "chat_template.json", _ChatTemplateJson)
    if single is not None:
        return single.chat_template
    config = read_config(folder / "tokenizer_config.json", TokenizerConfig)
    found = config.chat_template if config else None
    if isinstance(found, list):
        return next((named.template for named in found if named.name == "default"), None)
    return found


def check_template(folder: Path, source: str, *, bos: str, eos: str) -> str:
    """Render a template once.

    Args:
        folder: The checkpoint, for errors.
        source: The template.
        bos: Text of the token that begins a text.
        eos: Text of the token that ends a text.

    Returns:
        Why it cannot be rendered; "" when it can, or when it refuses the message by itself.

    Raises:
        IntegrityError: It is no Jinja template.
    """
    try:
        template = ChatTemplate(source, bos=bos, eos=eos)
    except IntegrityError as error:
        raise IntegrityError(
            f"the chat template of {folder} is broken: {error.message}",
            "repair it, or remove it from the checkpoint and convert without one",
        ) from None
    try:
        template.render([{"role": "user", "content": "नमस्ते"}])
    except UsageError:
        return ""
    except LlmedgeError as error:
        return error.message
    return ""
