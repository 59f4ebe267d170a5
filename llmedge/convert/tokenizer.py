"""A checkpoint's tokenizer as GGUF metadata, verified against llama.cpp before it is used.

Read, encoded with and checked in child processes, one after the other: the caller's memory holds
no more than the metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.checkpoint_template import check_template, find_template
from llmedge.convert.tokenizer_check import MAX_MISMATCH, Comparison, KindResult, Verdict
from llmedge.convert.tokenizer_reader import read_draft
from llmedge.core.errors import UnsupportedError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.writer import Metadata, encode_metadata
from llmedge.host.child import Child
from llmedge.measure.sentences import KINDS, read_sentences

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.convert.tokenizer_draft import Draft
    from llmedge.core.progress import Progress
    from llmedge.host.child import Talk


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """How to convert a tokenizer.

    Attributes:
        compat: Write what runtimes of before May 2026 know, even if it encodes worse.
        allow_mismatch: Accept a tokenizer that encodes differently, or cannot be verified.
    """

    compat: bool = False
    allow_mismatch: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """What became of a tokenizer.

    Attributes:
        model: `tokenizer.ggml.model`: `gpt2`, `llama`, `t5`, `bert` …
        family: What it is, in words.
        pre: `tokenizer.ggml.pre`.
        pre_from: Where `pre` comes from: `content`, `search`, `family` or `compat`.
        n_tokens: Rows, padding included.
        n_padding: Rows that no token has.
        adds_bos: Whether a text begins with `bos`.
        adds_eos: Whether a text ends with `eos`.
        chat_template: Whether there is one.
        results: How texts of each kind are encoded, compared with the original.
        notes: What a person should know.
    """

    model: str
    family: str
    pre: str | None
    pre_from: str
    n_tokens: int
    n_padding: int
    adds_bos: bool
    adds_eos: bool
    chat_template: bool
    results: tuple[KindResult, ...]
    notes: tuple[str, ...]


def convert_tokenizer(
    folder: Path,
    n_vocab: int,
    architecture: str,
    options: TokenizerOptions | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Metadata, TokenizerReport]:
    """Convert a checkpoint's tokenizer.

    Args:
        folder: The checkpoint, with its tokenizer and the configurations beside it.
        n_vocab: Rows of the embedding.
        architecture: llama.cpp's name of the architecture.
        options: How to convert.
        progress: Shows what is being tried.

    Raises:
        NotFoundError: There is no tokenizer.
        IntegrityError: A file is malformed or contradicts itself.
        UnsupportedError: llama.cpp has no such tokenizer, it has more tokens than the embedding
            has rows, or it encodes more than 0.5 % of the texts differently.
    """
    chosen = options or TokenizerOptions()
    draft = read_draft(folder, n_vocab, architecture)
    comparison = Comparison(folder, architecture, read_sentences())
    verdict = _find_best(draft, comparison, progress or SilentProgress())
    notes = [*draft.notes, *draft.special.notes]
    if not verdict.passes and not chosen.allow_mismatch:
        raise _mismatch(folder, verdict)
    if chosen.compat and draft.compat is not None:
        best, verdict = verdict, comparison.judge(draft, draft.compat)
        notes.append(_cost(best, verdict))
    elif verdict.n_mismatches:
        notes.append(f"llama.cpp encodes some texts differently: {_by_kind(verdict)}")
    template, template_notes = _convert_template(folder, draft)
    pieces = (*draft.pieces(verdict.choice), template)
    metadata = Metadata(
        sum(piece.n_keys for piece in pieces), b"".join(piece.data for piece in pieces)
    )
    return metadata, TokenizerReport(
        verdict.choice.model,
        draft.family,
        verdict.choice.pre,
        verdict.choice.pre_from,
        draft.n_tokens,
        draft.n_padding,
        draft.special.adds_bos,
        draft.special.adds_eos,
        chat_template=bool(template.n_keys),
        results=verdict.results,
        notes=(*notes, *template_notes),
    )


def _find_best(draft: Draft, comparison: Comparison, progress: Progress) -> Verdict:
    """Try the choices, then every pre-tokenizer; stop at the first that encodes all texts alike."""
    best: Verdict | None = None
    tried: set[tuple[str, str | None]] = set()
    stages = (draft.choices, draft.pre_types)
    total = sum(map(len, stages))
    with progress.task("comparing tokenizers", total=total, unit="ways") as task:
        for stage in stages:
            for choice in stage:
                if (choice.model, choice.pre) in tried:
                    continue
                task.update(len(tried), choice.pre or choice.model)
                tried.add((choice.model, choice.pre))
                verdict = comparison.judge(draft, choice)
                if best is None or verdict.n_unexplained < best.n_unexplained:
                    best = verdict
                if best.n_unexplained == 0:
                    return best
            if best is not None and best.passes:
                return best
    if best is None:
        raise AssertionError("a draft without any choice")
    return best


def _mismatch(folder: Path, verdict: Verdict) -> UnsupportedError:
    if verdict.why:
        return UnsupportedError(
            f"the tokenizer of {folder} cannot be used: {verdict.why}",
            "update llama-cpp-python, or open an issue with the model's name",
        )
    choice = verdict.choice
    share = verdict.n_unexplained / verdict.n_texts
    return UnsupportedError(
        f"llama.cpp encodes {share:.1%} of {verdict.n_texts} texts differently from the tokenizer "
        f"of {folder} (allowed: {MAX_MISMATCH:.1%}), at best with {choice.pre or choice.model}: "
        f"{_by_kind(verdict)}",
        "a model gives worse answers on such texts; accept that with --allow-tokenizer-mismatch",
    )


def _cost(best: Verdict, compat: Verdict) -> str:
    return (
        f"`{compat.choice.pre}` instead of `{best.choice.pre}`, for runtimes of before May 2026: "
        f"it encodes {compat.n_mismatches / compat.n_texts:.1%} of the texts differently "
        f"({_by_kind(compat)})"
    )


def _by_kind(verdict: Verdict) -> str:
    wrong = [result for result in verdict.results if result.n_mismatches]
    return ", ".join(
        f"{KINDS.get(result.kind, result.kind)} {result.n_mismatches / result.n_texts:.0%}"
        for result in sorted(wrong, key=lambda result: -result.n_mismatches / result.n_texts)
    )


def _convert_template(folder: Path, draft: Draft) -> tuple[Metadata, tuple[str, ...]]:
    source = find_template(folder)
    if source is None:
        return Metadata(0, b""), ()
    with Child(_check_template, folder, source, draft.special.bos, draft.special.eos) as child:
        why = child.wait()
    notes = (f"the chat template cannot be rendered: {why}",) if why else ()
    return encode_metadata({"tokenizer.chat_template": source}), notes


def _check_template(talk: Talk, folder: Path, source: str, bos: str, eos: str) -> str:
    del talk
    return check_template(folder, source, bos=bos, eos=eos)
