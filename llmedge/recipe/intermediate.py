"""The GGUF file that a checkpoint becomes before it is quantized."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.convert.general import checkpoint_name
from llmedge.convert.model import dominant_type
from llmedge.convert.pipeline import convert, open_checkpoint, plan
from llmedge.convert.report import ConvertOptions
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.quant_types import F16
from llmedge.quantize.working_copy import fits_memory
from llmedge.store.atomic import make_folder, work_folder
from llmedge.store.reference import model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.quantize.job import QuantizeOptions
    from llmedge.store.checkpoint import FolderCheckpoint


def checkpoint_model(folder: Path) -> str:
    """Return the name that a checkpoint's variants get."""
    return model_name(Path(f"{checkpoint_name(folder)}.gguf"))


@contextlib.contextmanager
def converted(
    folder: Path,
    options: QuantizeOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
    *,
    is_kept: bool,
) -> Generator[tuple[Path, bool]]:
    """Give a checkpoint as a GGUF file, and whether quantizing that again is known to be harmless.

    It is converted to 16 bits, or to 8 where memory is short, and the file is removed afterwards
    unless it is to be kept.

    Raises:
        LlmedgeError: Whatever converting raises.
    """
    name = options.name or checkpoint_model(folder)
    with contextlib.ExitStack() as stack:
        if is_kept:
            output = _kept_folder(options.output)
        else:
            output = stack.enter_context(work_folder(settings.home / "work" / f"{name}.gguf"))
        with open_checkpoint(folder) as checkpoint:
            mix = _intermediate_mix(checkpoint)
            overwrite = options.overwrite or not is_kept
            convert_options = ConvertOptions(mix, output, options.n_threads, overwrite=overwrite)
            tell(f"converting {folder} to {mix.name} first")
            conversion = plan(folder, checkpoint, convert_options, settings, progress)
            report = convert(conversion, progress)
        yield report.path, mix.name == "Q8_0"


def _intermediate_mix(checkpoint: FolderCheckpoint) -> Mix:
    """Return what a checkpoint is converted to first: its own 16 bits, or 8 where it is large."""
    if not fits_memory(checkpoint.n_bytes):
        return find_mix("Q8_0")
    return find_mix("F16" if dominant_type(checkpoint) == F16 else "BF16")


def _kept_folder(output: Path | None) -> Path | None:
    """Return the folder for the file made from a checkpoint; `None` is the store."""
    if output is None:
        return None
    folder = output.parent if output.suffix.lower() == ".gguf" else output
    make_folder(folder)
    return folder
