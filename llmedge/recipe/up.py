"""From a name to a file that can be served: whatever stages are missing, and none of them twice."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from llmedge.core.errors import NotFoundError
from llmedge.gguf.mixes import find_mix
from llmedge.recipe.variants import VariantsOptions, make_variants
from llmedge.store.catalog import resolve
from llmedge.store.reference import HubReference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.measure.calibration import CalibrationOptions
    from llmedge.store.reference import Reference

_USUAL_MIX = "Q4_K_M"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, as the Hub has it or as it was pulled.

    Attributes:
        commit: Which one.
        folder: Where its files are, or will be.
        files: The names of what is chosen of it.
        oids: What each hashes to, as the Hub says.
    """

    commit: str
    folder: Path
    files: tuple[str, ...]
    oids: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def has_weights(self) -> bool:
        """Whether it is a checkpoint, of which any variant can be made."""
        return any(name.endswith(".safetensors") for name in self.files)


class Source(Protocol):
    """The Hub, or what is kept of it."""

    def look(self, reference: HubReference) -> Snapshot:
        """Return what a reference stands for, without fetching it."""
        ...

    def fetch(self, reference: HubReference) -> Snapshot:
        """Fetch what a reference stands for, as far as it is not here."""
        ...


def make_ready(
    reference: Reference,
    source: Source,
    calibration: CalibrationOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> Path:
    """Return a model's file; what it lacks is pulled, converted and quantized first.

    Of a repository, that is a GGUF file where it has the variant, else a variant made of its
    weights: Q4_K_M where none is named. Killed, the same call goes on where it was.

    Args:
        reference: A variant, a file or a repository.
        source: Where repositories come from.
        calibration: The text of the importance matrix.
        settings: Where the store is.
        progress: Shows each stage.
        tell: Takes what a user should know.

    Raises:
        NotFoundError: There is no such model, repository or variant.
        LlmedgeError: Whatever pulling, converting or quantizing raises.
    """
    try:
        return resolve(settings, reference)
    except NotFoundError:
        if not isinstance(reference, HubReference):
            raise
    whole = replace(reference, variant=None)
    has_weights = source.look(whole).has_weights
    # Where there are weights as well, a variant need not be among the GGUF files.
    forgiven = (NotFoundError,) if has_weights else ()
    if reference.variant is not None or not has_weights:
        with contextlib.suppress(*forgiven):
            source.fetch(reference)
            return resolve(settings, reference)
    return _from_weights(reference, source, calibration, settings, progress, tell)


def _from_weights(
    reference: HubReference,
    source: Source,
    calibration: CalibrationOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> Path:
    mix = find_mix(reference.variant or _USUAL_MIX).name  # before gigabytes are fetched
    snapshot = source.fetch(replace(reference, variant=None))
    with contextlib.suppress(NotFoundError):  # a branch's name is not in a sidecar, its commit is
        return resolve(settings, HubReference(reference.repo, snapshot.commit, mix))
    tell(f"making {mix} of {reference.repo}@{snapshot.commit[:12]}")
    options = VariantsOptions(calibration, mixes=(mix,))
    return make_variants(snapshot.folder, options, settings, progress, tell).variants[0].path
