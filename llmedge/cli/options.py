"""Options that several commands take, worded once.

A command takes a group of options as one dataclass: `grouped` turns its fields into options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from llmedge.runtime.context import ContextOptions
    from llmedge.runtime.generation import GenerationOptions
    from llmedge.runtime.model import ModelOptions

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# Numbers beyond these wrap around in the library.
MAX_CTX, MAX_BATCH = 1 << 27, 1 << 20
MAX_SLOTS = 240  # of llama.cpp's 256 sequences, some are kept for prefixes

Format = Literal["table", "md", "json", "jsonl", "csv"]

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="name:Q4_K_M, ORG/NAME:Q4_K_M, ./file.gguf", show_default=False
    ),
]
ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL…", help="name:Q4_K_M, ORG/NAME:Q4_K_M, ./file.gguf", show_default=False
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Threads; the performance cores by default.", show_default=False
    ),
]


@dataclasses.dataclass(frozen=True, slots=True)
class ShowFlags:
    """How results are printed."""

    format: Annotated[Format, typer.Option(help="How to print the results on stdout.")] = "table"
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False

    @property
    def chosen(self) -> Format:
        """The format in force."""
        return "json" if self.json else self.format


@dataclasses.dataclass(frozen=True, slots=True)
class RunFlags:
    """How a model is loaded and run; the same in serve, chat, bench and evaluate."""

    ctx: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_CTX,
            help="Tokens of context; 0: as trained. By default 4096 in serve and chat, 512 in "
            "evaluate and choose (1024 with --chat), in bench what is measured.",
            show_default=False,
        ),
    ] = None
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_SLOTS,
            help="Requests computed at once: by default 4 in serve, 1 elsewhere.",
            show_default=False,
        ),
    ] = None
    threads: ThreadsOption = None
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Tokens in one decode call.")] = (
        512
    )
    ubatch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Tokens computed at once.")] = (
        512
    )
    gpu_layers: Annotated[
        int,
        typer.Option(help="Layers on the GPU; -1: all that a GPU build fits."),
    ] = -1
    type_k: Annotated[str, typer.Option(help="Type of the keys in the kv cache.")] = "f16"
    type_v: Annotated[str, typer.Option(help="Type of the values in the kv cache.")] = "f16"
    flash_attn: Annotated[Literal["auto", "on", "off"], typer.Option(help="Flash attention.")] = (
        "auto"
    )
    load_mode: Annotated[
        Literal["auto", "mmap", "read", "mlock", "mmap+mlock", "direct"],
        typer.Option(help="How the weights come into memory."),
    ] = "auto"

    def model_options(self) -> ModelOptions:
        """Return how to load the model."""
        from llmedge.runtime.model import ModelOptions

        return ModelOptions(load_mode=self.load_mode, n_gpu_layers=self.gpu_layers)

    def context_options(
        self, default_threads: int | None, *, default_ctx: int = 4096, default_slots: int = 1
    ) -> ContextOptions:
        """Return how to run it.

        Raises:
            UnsupportedError: Several slots where one request is computed at a time.
        """
        from llmedge.runtime.context import ContextOptions

        slots = default_slots if self.slots is None else self.slots
        if slots > 1 and default_slots == 1:
            raise UnsupportedError(
                f"{slots} slots are of no use here: there is one request at a time",
                "leave --slots away",
            )
        return ContextOptions(
            n_ctx=default_ctx if self.ctx is None else self.ctx,
            n_batch=self.batch,
            n_ubatch=self.ubatch,
            n_seq_max=slots,
            type_k=self.type_k,
            type_v=self.type_v,
            flash_attention=self.flash_attn,
            n_threads=self.threads or default_threads,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingFlags:
    """How tokens are chosen."""

    temperature: Annotated[float, typer.Option(min=0, help="0: always the most likely.")] = 0.8
    top_k: Annotated[
        int, typer.Option(min=0, max=1 << 30, help="Only the k most likely; 0: all.")
    ] = 40
    top_p: Annotated[
        float,
        typer.Option(min=0, max=1, help="Only what makes up this share."),
    ] = 0.95
    min_p: Annotated[
        float,
        typer.Option(min=0, max=1, help="Only what is at least this likely."),
    ] = 0.05
    repeat_penalty: Annotated[float, typer.Option(min=0.01, help="1: off.")] = 1.0
    seed: Annotated[
        int | None,
        typer.Option(help="The same text again.", show_default=False),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens.", show_default=False),
    ] = None

    def generation_options(self) -> GenerationOptions:
        """Return how to generate."""
        from llmedge.runtime.generation import GenerationOptions
        from llmedge.runtime.sampler import SamplingOptions

        return GenerationOptions(
            max_tokens=self.max_tokens,
            sampling=SamplingOptions(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                repeat_penalty=self.repeat_penalty,
                seed=self.seed,
            ),
        )


def model_path(reference: str) -> Path:
    """Return the file that a reference on the command line names.

    Raises:
        UsageError: It is no reference, or a checkpoint's folder.
        NotFoundError: There is no such model.
    """
    from llmedge.core.settings import load_settings
    from llmedge.store.catalog import resolve
    from llmedge.store.reference import parse_reference

    try:
        return resolve(load_settings(), parse_reference(reference))
    except (NotFoundError, UsageError):
        _refuse_checkpoint(reference)
        raise


def _refuse_checkpoint(text: str) -> None:
    folder = Path(text)
    try:
        is_checkpoint = (folder / "config.json").is_file()
    except OSError:  # a name too long for any file
        return
    if is_checkpoint:
        from llmedge.convert.general import checkpoint_name
        from llmedge.store.reference import model_name

        name = model_name(Path(f"{checkpoint_name(folder)}.gguf"))
        raise UsageError(
            f"{text} is a checkpoint, and a GGUF file is wanted",
            f"llmedge convert {text} -t BF16; then it is {name}:BF16",
        )


def grouped(function: FunctionT) -> FunctionT:
    """Let a command take dataclasses of options; each of their fields becomes an option.

    The dataclass's parameter must be keyword-only in the function and has no default.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, type[Any]] = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if isinstance(parameter.annotation, type) and dataclasses.is_dataclass(parameter.annotation)
    }
    flat = [parameter for name, parameter in parameters.items() if name not in groups]
    for group in groups.values():
        flat += _fields(group)

    @functools.wraps(function)
    def command(**values: object) -> object:
        for name, group in groups.items():
            fields = [field.name for field in dataclasses.fields(group)]
            values[name] = group(**{field: values.pop(field) for field in fields})
        return function(**values)

    command.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return command  # type: ignore[return-value]


def _fields(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
