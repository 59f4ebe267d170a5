"""Texts and conversations as one model's tokens, the way the model saw them in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.measure.corpus import WITHOUT_CHAT, read_chunks
from llmedge.runtime.chat_template import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmedge.measure.corpus import Conversation, Corpus
    from llmedge.runtime.model import Model


class ModelText:
    """Turns texts into a model's tokens.

    Args:
        model: The open model.
    """

    def __init__(self, model: Model) -> None:
        self._vocab = model.vocab
        self._bos = model.vocab.bos if model.vocab.adds_bos else None
        self._template: ChatTemplate | None = None
        self._defect: IntegrityError | None = None
        try:
            self._template = ChatTemplate.of_model(model)
        except UnsupportedError:
            pass
        except IntegrityError as error:  # plain text needs none
            self._defect = error

    @property
    def can_chat(self) -> bool:
        """Whether the model has a chat template, which may be broken."""
        return self._template is not None or self._defect is not None

    def chunks(
        self, corpus: Corpus, n_ctx: int, *, language: str | None = None
    ) -> Iterator[list[int]]:
        """Yield a text in chunks of at most `n_ctx` tokens; see `read_chunks`.

        Args:
            corpus: The text.
            n_ctx: Tokens in a chunk.
            language: Of the conversations to take; `None` takes all.

        Raises:
            UsageError: The text is unfit, or holds conversations and the model cannot chat.
            IntegrityError: It holds conversations, and the model's chat template is broken.
        """
        if corpus.is_chat and self._defect is not None:
            raise IntegrityError(self._defect.message, WITHOUT_CHAT)

        def chat(conversation: Conversation) -> list[int]:
            return self.chat(conversation) if language in (None, conversation.language) else []

        can_chat = chat if self._template else None
        return read_chunks(corpus, self.plain, can_chat, n_ctx=n_ctx, bos=self._bos)

    def plain(self, text: str) -> list[int]:
        """Return the tokens of plain text, without special ones."""
        return self._vocab.tokenize(text)

    def chat(self, conversation: Conversation) -> list[int]:
        """Return the tokens of a conversation in the model's template, without a leading `bos`.

        Raises:
            UsageError: The template refuses it.
            UnsupportedError: The model has no template.
        """
        if self._template is None:
            raise UnsupportedError("the model has no chat template")
        messages = list(conversation.messages)
        try:
            text = self._template.render(messages, add_generation_prompt=False)
        except UsageError:
            if messages[0]["role"] != "system":
                raise
            # Some templates know no system turn; their models were told such things by the user.
            system, first, *rest = messages
            first = {**first, "content": f"{system['content']}\n\n{first['content']}"}
            text = self._template.render([first, *rest], add_generation_prompt=False)
        tokens = self._vocab.tokenize(text, parse_special=True)
        return tokens[1:] if self._bos is not None and tokens[:1] == [self._bos] else tokens
