"""Text to tokens and back, without ever showing half a character."""

from __future__ import annotations

import codecs
import ctypes
import functools
import weakref
from array import array
from typing import TYPE_CHECKING, Any

from llmedge.core.errors import EngineError, UsageError
from llmedge.runtime.handle import ClosedHandleError
from llmedge.runtime.library import library
from llmedge.runtime.long_words import LongWords, is_fragile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmedge.runtime.handle import Handle

_NO_TOKEN = -1
# What comes before `_token_id` in the metadata, and llama.cpp's name for the same.
_ROLES = {
    "bos": "bos",
    "eos": "eos",
    "eot": "eot",
    "seperator": "sep",
    "padding": "pad",
    "mask": "mask",
    **{name: name for name in ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")},
}
_FIRST_PIECE_BYTES = 64


class Vocab:
    """A model's vocabulary; valid while the model is open.

    Args:
        model: The open model.
    """

    def __init__(self, model: Handle) -> None:
        self._model = weakref.ref(model)
        self._pointer = library().llama_model_get_vocab(model.pointer)
        self._buffer = ctypes.create_string_buffer(_FIRST_PIECE_BYTES)

    @property
    def pointer(self) -> Any:
        """The pointer, for calls into the library.

        Raises:
            ClosedHandleError: The model is closed.
        """
        return self._live()

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, the width of the logits."""
        return int(library().llama_vocab_n_tokens(self._live()))

    @property
    def bos(self) -> int | None:
        """The token that begins a text, if there is one."""
        token = int(library().llama_vocab_bos(self._live()))
        return None if token == _NO_TOKEN else token

    @property
    def eos(self) -> int | None:
        """The token that ends a text, if there is one."""
        token = int(library().llama_vocab_eos(self._live()))
        return None if token == _NO_TOKEN else token

    @property
    def roles(self) -> dict[str, int]:
        """The special tokens in force by their keys: written, by default or found by text."""
        found = {
            f"tokenizer.ggml.{role}_token_id": int(
                getattr(library(), f"llama_vocab_{name}")(self._live())
            )
            for role, name in _ROLES.items()
        }
        return {key: token for key, token in found.items() if token != _NO_TOKEN}

    @property
    def adds_bos(self) -> bool:
        """Whether a text should begin with `bos`."""
        return bool(library().llama_vocab_get_add_bos(self._live()))

    def tokenize_pair(self, first: str, second: str) -> list[int]:
        """Turn two texts into the tokens of both, with those around and between them.

        Source: llama.cpp tools/server/server-common.cpp `format_prompt_rerank`; transformers'
        tokenizers of BERT (`[CLS] A [SEP] B [SEP]`) and XLM-RoBERTa (`<s> A </s> </s> B </s>`),
        whose second separator files do not always tell of.
        """
        lib, live = library(), self._live()
        roles = self.roles
        sep = roles.get("tokenizer.ggml.seperator_token_id", self.eos)
        eos = sep if self.eos is None else self.eos
        adds_eos = bool(lib.llama_vocab_get_add_eos(live))
        is_unigram = lib.llama_vocab_type(live) == lib.LLAMA_VOCAB_TYPE_UGM
        between = [eos] if adds_eos else []
        if lib.llama_vocab_get_add_sep(live) or (is_unigram and self.adds_bos and adds_eos):
            between.append(sep)
        begin = [self.bos] if self.adds_bos else []
        parts = [*begin, *self.tokenize(first), *between, *self.tokenize(second), *between[:1]]
        return [token for token in parts if token is not None]

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation (end of text, of turn, of message)."""
        return bool(library().llama_vocab_is_eog(self._live(), token))

    def end_tokens(self) -> frozenset[int]:
        """Return all tokens that end the generation."""
        return frozenset(token for token in range(self.n_tokens) if self.is_end(token))

    def text(self, token: int | None) -> str:
        """Return a token as it is written in the vocabulary: `<|im_end|>`; "" for `None`."""
        if token is None:
            return ""
        raw = library().llama_vocab_get_text(self._live(), token)
        return raw.decode("utf-8", "replace") if raw else ""

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Turn text into tokens.

        Where llama.cpp's tokenizer would end the process on a very long word, the word is cut.

        Args:
            text: Any text; lone surrogates are replaced.
            add_special: Add the tokens that the model wants around a text, such as `bos`.
            parse_special: Read `<|im_start|>` and the like as the tokens they name.

        Raises:
            EngineError: The tokenizer failed.
        """
        parts = self._long_words.cut(text) if self._long_words else [text]
        if len(parts) == 1:
            return self._tokenize(text, add_special=add_special, parse_special=parse_special)
        lib, live = library(), self._live()
        tokens = [lib.llama_vocab_bos(live)] if add_special and self.adds_bos else []
        for part in parts:
            tokens += self._tokenize(part, add_special=False, parse_special=parse_special)
        if add_special and lib.llama_vocab_get_add_eos(live):
            tokens.append(lib.llama_vocab_eos(live))
        return tokens

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        n_max = len(data) + 8
        # A negative answer is the room it wants: a space may become a character of three bytes,
        # and each of them a token.
        for _ in range(2):
            buffer = (ctypes.c_int32 * n_max)()
            n = library().llama_tokenize(
                self._live(), data, len(data), buffer, n_max, add_special, parse_special
            )
            if n >= 0:
                return list(buffer[:n])
            n_max = -n
        raise EngineError(f"a text of {len(data)} bytes could not be tokenized")

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token adds to a text; they may be part of a character.

        Args:
            token: Its id.
            special: Whether control tokens appear as their text instead of nothing.
        """
        lib = library()
        n = lib.llama_token_to_piece(
            self._live(), token, self._buffer, len(self._buffer), 0, special
        )
        if n < 0:
            self._buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(
                self._live(), token, self._buffer, len(self._buffer), 0, special
            )
        return self._buffer.raw[:n]

    @functools.cached_property
    def pieces_of_all(self) -> PieceTable:
        """The bytes that each token adds to a text, read once: 0.07 s for 49k tokens."""
        return PieceTable(self.piece(token) for token in range(self.n_tokens))

    def pieces(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the bytes of tokens, control tokens as they are written.

        Raises:
            UsageError: A number is no token.
        """
        n_tokens = self.n_tokens
        wanted = list(tokens)
        for token in wanted:
            if not 0 <= token < n_tokens:
                raise UsageError(f"{token} is no token: the vocabulary has {n_tokens}")
        return [self.piece(token, special=True) for token in wanted]

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """Turn tokens into text; bytes that are no UTF-8 become U+FFFD."""
        detokenizer = Detokenizer()
        parts = [detokenizer.feed(self.piece(token, special=special)) for token in tokens]
        return "".join(parts) + detokenizer.finish()

    def difference(self, other: Vocab) -> str | None:
        """Say where another vocabulary first means something else by a token; `None` if nowhere."""
        if self.n_tokens != other.n_tokens:
            return f"{other.n_tokens} tokens instead of {self.n_tokens}"
        for role, one, another in (("bos", self.bos, other.bos), ("eos", self.eos, other.eos)):
            if one != another:
                return f"its {role} token is {another} instead of {one}"
        for token in range(self.n_tokens):
            one, another = self.piece(token, special=True), other.piece(token, special=True)
            if one != another or self.is_end(token) != other.is_end(token):
                return f"its token {token} is {another!r} instead of {one!r}"
        return None

    def starts_with_bos(self, tokens: Sequence[int]) -> bool:
        """Whether tokens begin with `bos`."""
        return bool(tokens) and tokens[0] == self.bos

    @functools.cached_property
    def _long_words(self) -> LongWords | None:
        """What cuts long words, if the vocabulary's pre-tokenizer does not survive them."""
        model = self._model()
        if model is None or not is_fragile(model.pointer, self._live()):
            return None
        lib, live = library(), self._live()
        kept = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        kept |= lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return LongWords(
            self.text(token)
            for token in range(self.n_tokens)
            if lib.llama_vocab_get_attr(live, token) & kept
        )

    def _live(self) -> object:
        model = self._model()
        if model is None or model.is_closed:
            raise ClosedHandleError("the vocabulary's model is closed")
        return self._pointer


class PieceTable:
    """The bytes of all tokens in one piece of memory: 3 MB for 262k tokens."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        data = bytearray()
        self._ends = array("I", [0])
        for piece in pieces:
            data += piece
            self._ends.append(len(data))
        self._data = bytes(data)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self[token] for token in range(len(self)))

    def __getitem__(self, token: int) -> bytes:
        if not 0 <= token < len(self):
            raise IndexError(f"{token} is no token")
        return self._data[self._ends[token] : self._ends[token + 1]]

    def join(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of several tokens."""
        return b"".join(map(self.__getitem__, tokens))


class Detokenizer:
    """Joins pieces into text; holds back the bytes of a character that is not complete.

    The joined output is the same for any split of the same bytes, and each part of it is whole
    characters. Bytes that can never become a character turn into U+FFFD at once.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """Take the next bytes and return the characters that are complete."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that never became complete."""
        return self._decoder.decode(b"", final=True)
