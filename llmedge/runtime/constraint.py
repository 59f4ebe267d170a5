"""What a text must be, token by token: schemas and grammars compiled by llguidance, or an error."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from llmedge.core.errors import ResourceError, UnsupportedError, UsageError
from llmedge.runtime.json_schema import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from numpy.typing import NDArray

    from llmedge.runtime.vocab import PieceTable, Vocab

ConstraintKind: TypeAlias = Literal["json_schema", "json_object", "regex", "lark", "gbnf"]

MAX_TEXT_BYTES = 1 << 16
MAX_COMPILE_S = 2.0
# A chain of ten thousand rules, as many as fit into a text, is ten thousand calls deep. Pages of a
# stack that are not touched take no memory.
_STACK_BYTES = 256 << 20
# The defaults let one text take seconds and 100 MB; an ordinary schema takes a hundredth of these.
_LIMITS = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,  # they quote what was generated
}
# Between the parts of a JSON text. Without a bound a small model may write spaces for ever.
_WHITESPACE = r"[ \n\r\t]{1,40}"
_SCHEMA_OPTIONS = {"lenient": False, "whitespace_pattern": _WHITESPACE}
# What a byte of eight bits allows, as the largest that their logits may be.
_CEILINGS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") == 1,
    np.float32(np.inf),
    np.float32(-np.inf),
)


class ConstraintFactory:
    """Compiles constraints for one vocabulary, whose tokens are read once, when first needed.

    Not for several threads at once.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        n_bytes = -(-vocab.n_tokens // 32) * 4  # llguidance writes words of 32 bits
        self._allowed = np.zeros(n_bytes, dtype=np.uint8)
        self._ceilings = np.empty((n_bytes, 8), dtype=np.float32)
        self._unfinished: threading.Thread | None = None

    @classmethod
    def of_vocab(cls, vocab: Vocab) -> ConstraintFactory:
        """Prepare for a vocabulary, which is not read yet."""
        return cls(vocab)

    def compile(self, kind: ConstraintKind, text: str = "") -> Constraint:
        """Compile a constraint and make sure that a text can begin.

        Args:
            kind: The language of `text`.
            text: A JSON schema, a regular expression, a Lark grammar or llama.cpp's GBNF; ignored
                for `json_object`.

        Raises:
            UsageError: It is no such text, can match nothing, or is too large or too complex.
            UnsupportedError: llguidance is not installed, or the vocabulary has no ending token.
            ResourceError: An earlier one that was too complex still takes the time.
        """
        _check_text(text)
        if kind == "json_schema":
            check_schema(text)
        tokenizer = self._tokenizer
        matcher = self._in_time(lambda: _begin(tokenizer, kind, text))
        return Constraint(matcher, self._allowed, self._ceilings, self._vocab.n_tokens)

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it: 0.2 s for 49k tokens, 1.8 s for 262k."""
        llguidance = _llguidance()
        tokens = _Tokens(self._vocab)
        if not tokens.ends:
            raise UnsupportedError("the model has no token that ends a text: nothing can be forced")
        tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(tokens), eos_token=tokens.ends
        )
        tokens.tokenizer = tokenizer
        tokens.tokens.clear()  # llguidance has read them; with 262k they are 15 MB
        return tokenizer

    def _in_time(self, begin: Callable[[], LLMatcher]) -> LLMatcher:
        """Run on a thread with room for deep grammars, and not for longer than is allowed.

        Threads cannot be ended: one that takes longer goes on by itself, and until it is done no
        other begins, so that there is never more than one.
        """
        if self._unfinished is not None and self._unfinished.is_alive():
            raise ResourceError(
                "an earlier constraint is still being compiled", "try again in a moment"
            )
        outcome: list[LLMatcher | BaseException] = []

        def run() -> None:
            try:
                outcome.append(begin())
            except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
                outcome.append(error)

        before = threading.stack_size(_STACK_BYTES)
        try:
            self._unfinished = threading.Thread(target=run, name="compile", daemon=True)
            self._unfinished.start()
        except RuntimeError as error:  # its stack is memory
            raise ResourceError(
                f"there is no memory to compile a constraint: {error}", "try again in a moment"
            ) from None
        finally:
            threading.stack_size(before)
        self._unfinished.join(MAX_COMPILE_S)
        if not outcome:
            raise UsageError(
                f"a constraint takes more than {MAX_COMPILE_S:.0f} s to compile",
                "simplify its patterns, or give it fewer rules",
            )
        (result,) = outcome
        if isinstance(result, UsageError):
            raise result
        if isinstance(result, BaseException):
            raise UsageError(f"a constraint cannot be compiled: {_first_line(str(result))}")
        return result


class Constraint:
    """One text in the making. Made by `ConstraintFactory.compile`; used on the same thread."""

    def __init__(
        self,
        matcher: LLMatcher,
        allowed: NDArray[np.uint8],
        ceilings: NDArray[np.float32],
        n_vocab: int,
    ) -> None:
        self._matcher = matcher
        self._allowed = allowed
        self._ceilings = ceilings
        self._n_vocab = n_vocab

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to minus infinity, in place.

        0.14 ms for 262k tokens, what llguidance takes included: the bits are never looked at one by
        one.

        Args:
            logits: One row, `(n_vocab,)`; what is wider than the vocabulary is padding.

        Raises:
            UsageError: No token can come next, or it became too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(self._allowed.ctypes.data, self._allowed.nbytes)
        self._check()
        if not self._allowed.any():
            raise UsageError("the constraint cannot be met: no token can come next")
        np.take(_CEILINGS, self._allowed, axis=0, out=self._ceilings, mode="clip")
        n_known = min(len(logits), self._n_vocab)
        known = logits[:n_known]
        np.minimum(known, self._ceilings.ravel()[:n_known], out=known)
        logits[n_known:] = -np.inf

    def accept(self, token: int) -> None:
        """Go on by a token.

        Raises:
            UsageError: The token may not come next, or it became too complex.
        """
        if not self._matcher.consume_token(token):
            self._check()
            raise UsageError(f"token {token} is not what the constraint allows")

    def forced_tokens(self) -> list[int]:
        """Return the tokens that must come next, as the vocabulary writes them; often none.

        They are not accepted yet.
        """
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(
                f"the constraint cannot go on: {_first_line(self._matcher.get_error())}",
                "simplify the schema or the grammar",
            )


class _Tokens:
    """A vocabulary with the names that llguidance looks for.

    Text tokens are the bytes that they add. Those that add none are control tokens: only a grammar
    that names one allows it.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._pieces: PieceTable = vocab.pieces_of_all
        self.tokens = list(self._pieces)
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        for token in self.special_token_ids:
            self.tokens[token] = vocab.piece(token, special=True)
        self.ends = [token for token in self.special_token_ids if vocab.is_end(token)]
        self.bos_token_id = vocab.bos
        self.eos_token_id = vocab.eos if vocab.eos in self.ends else next(iter(self.ends), 0)
        self.tokenizer: LLTokenizer | None = None

    def __call__(self, data: bytes) -> list[int]:
        """Turn bytes that must come into the tokens that the model would write them with."""
        text = data.decode("utf-8", "replace")
        # SentencePiece begins each text with a space: what follows a line break has none.
        tokens = self._vocab.tokenize("\n" + text)
        for n_before in range(1, min(len(tokens), 4)):
            if self._pieces.join(tokens[n_before:]) == data:
                return tokens[n_before:]
        tokens = self._vocab.tokenize(text)
        if self._pieces.join(tokens) == data:
            return tokens
        return self.tokenizer.greedy_tokenize(text) if self.tokenizer else []


def _begin(tokenizer: LLTokenizer, kind: ConstraintKind, text: str) -> LLMatcher:
    """Compile, and find out what the first token may be: some say only there that they cannot."""
    matcher_class = _llguidance().LLMatcher
    if kind == "json_object":
        kind, text = "json_schema", '{"type": "object"}'
    if kind == "json_schema":
        grammar = matcher_class.grammar_from_json_schema(text, overrides=_SCHEMA_OPTIONS)
    elif kind == "regex":
        grammar = matcher_class.grammar_from_regex(text)
    elif kind == "lark":
        grammar = matcher_class.grammar_from_lark(text)
    elif kind == "gbnf":
        grammar = matcher_class.grammar_from_lark(_lark_of_gbnf(text))
    else:
        raise UsageError(f"unknown kind of constraint {kind!r}")
    matcher = matcher_class(tokenizer, grammar, log_level=0, limits=_limits())
    warnings = matcher.get_grammar_warnings()
    matcher.compute_bitmask()
    if matcher.is_error() or warnings:
        reason = matcher.get_error() or warnings[0]
        raise UsageError(f"a {kind.replace('_', ' ')} cannot be compiled: {_first_line(reason)}")
    return matcher


def _lark_of_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return cast("Callable[[str], str]", gbnf_to_lark)(text)
    except Exception as error:  # noqa: BLE001 - a parser in Python: whatever it stumbles over
        reason = _first_line(str(error)) or type(error).__name__
        raise UsageError(f"a gbnf grammar cannot be read: {reason}") from None


@functools.cache
def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise UnsupportedError(
            f"llguidance does not load: {error}", "pip install llguidance"
        ) from None
    return llguidance


@functools.cache
def _limits() -> LLParserLimits:
    return _llguidance().LLParserLimits(**_LIMITS)


def _check_text(text: str) -> None:
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError("a constraint has half a character in it") from None
    if n_bytes > MAX_TEXT_BYTES:
        raise UsageError(
            f"a constraint of {n_bytes} bytes is too long",
            f"at most {MAX_TEXT_BYTES} bytes are compiled",
        )


def _first_line(message: str) -> str:
    """Cut an error to what fits into an answer."""
    lines = [line for line in message.splitlines() if line.strip() and "<non-verbose/>" not in line]
    return " ".join(lines[:1])[:300]
