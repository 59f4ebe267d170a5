"""A checkpoint's tokenizer as GGUF metadata, verified against llama.cpp before it is used.

Read, encoded with and checked in child processes, one after the other: the caller's memory holds
no more than the metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.checkpoint_template import check_template, find_template
from llmedge.convert.in_child import run_in_child
from llmedge.convert.tokenizer_check import MAX_MISMATCH, Comparison, KindResult, Verdict
from llmedge.convert.tokenizer_reader import read_draft
from llmedge.core.errors import UnsupportedError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.writer import Metadata, encode_metadata
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
        ResourceError: A child process was ended.
    """
    chosen = options or TokenizerOptions()
    draft = read_draft(folder, n_vocab, architecture)
    comparison = Comparison(folder, architecture, read_sentences())
    verdict = _find_best(draft, comparison, progress or SilentProgress())
    notes = [*draft.notes, *draft.special.notes]
    if verdict.why or not (verdict.passes or chosen.allow_mismatch):
        raise _mismatch(folder, verdict)
    if chosen.compat and draft.compat is not None and draft.compat.pre != verdict.choice.pre:
        best, verdict = verdict, comparison.judge(draft, draft.compat)
        notes.append(_cost(best, verdict))
    elif verdict.n_mismatches:
        notes.append(f"llama.cpp encodes some texts differently: {_by_kind(verdict)}")
        notes += [difference.value for difference in draft.differences]
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
    verdicts: list[Verdict] = []
    stages = (draft.choices, draft.pre_types)
    total = sum(map(len, stages))
    with progress.task("comparing tokenizers", total=total, unit="ways") as task:
        for stage in stages:
            known = [verdict.choice.pre for verdict in verdicts]
            for choice in (choice for choice in stage if choice.pre not in known):
                task.update(len(verdicts), choice.pre or choice.model)
                verdicts.append(comparison.judge(draft, choice))
                if verdicts[-1].n_unexplained == 0:
                    return verdicts[-1]
            if any(verdict.passes for verdict in verdicts):
                break
    return min(verdicts, key=lambda verdict: verdict.n_unexplained)


def _mismatch(folder: Path, verdict: Verdict) -> UnsupportedError:
    if verdict.why:
        return UnsupportedError(
            f"{verdict.why} (the tokenizer of {folder})",
            "update llmedge and llama-cpp-python, or use a model of another family",
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
    names = draft.special.bos, draft.special.eos
    why = run_in_child("rendering the chat template", _check_template, folder, source, *names)
    notes = (f"the chat template cannot be rendered: {why}",) if why else ()
    return encode_metadata({"tokenizer.chat_template": source}), notes


def _check_template(talk: Talk, folder: Path, source: str, bos: str, eos: str) -> str:
    del talk
    return check_template(folder, source, bos=bos, eos=eos)
