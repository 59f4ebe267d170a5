"""`llmedge serve`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmedge.cli.options import RunFlags, grouped, model_path
from llmedge.cli.output import note
from llmedge.core.errors import InterruptedByUser, NotFoundError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from llmedge.core.settings import Settings
    from llmedge.runtime.lora import LoraOptions
    from llmedge.serve.server import Served, ServeOptions
    from llmedge.serve.tracing import Tracing

_N_DRAFT = 4  # tokens that a draft model guesses: more are seldom all right


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointFlags:
    """Where to listen, who may ask, and how much."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with API keys, one a line; LLMEDGE_API_KEYS adds more.", show_default=False
        ),
    ] = None
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Let others ask without a key.")
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this machine in requests.", show_default=False),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page that may ask: http://localhost:3000.", show_default=False),
    ] = None
    alias: Annotated[
        list[str] | None,
        typer.Option(help="Another name of the only model in requests.", show_default=False),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of an answer whose request does not say; the context's end by default.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of requests that name none; each another by default.", show_default=False
        ),
    ] = None
    max_queue: Annotated[
        int, typer.Option(min=0, max=10_000, help="Requests that may wait; more are told to retry.")
    ] = 64
    deadline: Annotated[
        float, typer.Option(min=1, max=1e6, help="Seconds that one request may take.")
    ] = 1800
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM certificate: answer HTTPS instead of HTTP.", show_default=False),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(help="Its PEM key, where another file has it.", show_default=False),
    ] = None
    socket: Annotated[
        Path | None,
        typer.Option(help="Listen on this Unix socket instead of an address.", show_default=False),
    ] = None
    settings: Annotated[
        bool, typer.Option("--settings", help="Show what to paste into other programs.")
    ] = False
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Offer every GGUF file in this folder, instead of MODEL…", show_default=False
        ),
    ] = None
    draft: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=64,
            help="Tokens to guess ahead: from the prompt, by default none, or by --draft-model, "
            "by default 4.",
            show_default=False,
        ),
    ] = None
    draft_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A smaller model with the same vocabulary, which guesses ahead.",
            show_default=False,
        ),
    ] = None
    reasoning_budget: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1 << 30,
            help="Tokens of reasoning where a request does not say; 0: none.",
            show_default=False,
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=SCALE]",
            help="LoRA adapter (GGUF) to load; requests may choose. May be repeated.",
            show_default=False,
        ),
    ] = None
    pooling: Annotated[
        Literal["mean", "cls", "last", "rank"] | None,
        typer.Option(
            help="Make embeddings, or scores (rank), with a model that does not say how.",
            show_default=False,
        ),
    ] = None
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep computed prompts here (1 GiB at most) for the next start; none by default.",
            show_default=False,
        ),
    ] = None
    ttl: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=1e9,
            help="Seconds after which an unused model is unloaded, of several.",
            show_default=False,
        ),
    ] = None

    def serve_options(self, run: RunFlags, settings: Settings) -> ServeOptions:
        """Return how to serve."""
        from llmedge.serve.limits import Limits
        from llmedge.serve.served import Defaults
        from llmedge.serve.server import ServeOptions

        return ServeOptions(
            self.host,
            self.port,
            run.model_options(),
            dataclasses.replace(
                run.context_options(settings.threads, default_slots=4), pooling=self.pooling
            ),
            limits=Limits(max_queue=self.max_queue, deadline_s=self.deadline),
            api_keys=(*settings.api_keys, *self._keys_in_file()),
            allow_anonymous=self.allow_anonymous,
            hosts=tuple(self.allow_host or ()),
            origins=tuple(self.allow_origin or ()),
            ttl_s=self.ttl,
            n_draft=self._n_draft(),
            draft_path=model_path(self.draft_model) if self.draft_model else None,
            loras=self._loras(),
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            socket_path=self.socket,
            aliases=tuple(self.alias or ()),
            cache_dir=self.cache_dir,
            defaults=Defaults(self.max_tokens, self.seed, self.reasoning_budget),
        )

    def _loras(self) -> tuple[LoraOptions, ...]:
        from llmedge.runtime.lora import MAX_LORAS, LoraOptions, require_scale

        loras = [LoraOptions(*_path_and_scale(given)) for given in self.lora or ()]
        names = [lora.name for lora in loras]
        if len(set(names)) < len(names) or len(names) > MAX_LORAS:
            raise UsageError(
                f"--lora needs up to {MAX_LORAS} files with names of their own, not "
                f"{', '.join(names)}"
            )
        for lora in loras:
            require_scale(lora.scale, lora.name)
        return tuple(loras)

    def _n_draft(self) -> int:
        if self.draft_model is None:
            return self.draft or 0
        if self.draft == 0:
            raise UsageError("--draft-model has nothing to do with --draft 0", "use --draft 4")
        return self.draft or _N_DRAFT

    def _keys_in_file(self) -> tuple[str, ...]:
        from llmedge.core.settings import split_keys

        if self.api_key_file is None:
            return ()
        try:
            keys = split_keys(self.api_key_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise NotFoundError(f"{self.api_key_file} cannot be read: {error}") from None
        if not keys:
            raise UsageError(f"{self.api_key_file} has no API key")
        return keys


OptionalModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL…]", help="name, name:Q4_K_M or ./file.gguf", show_default=False),
]


def _path_and_scale(given: str) -> tuple[Path, float]:
    """Take `FILE=0.5` apart; a file's name may have that form, too."""
    name, _, number = given.rpartition("=")
    if not name or Path(given).exists():
        return Path(given), 1.0
    try:
        return Path(name), float(number)
    except ValueError:
        raise UsageError(
            f"{number!r} is no scale of the adapter {name}", "--lora FILE=0.5"
        ) from None


@grouped
def serve_command(
    models: OptionalModelsArgument = None, *, endpoint: EndpointFlags, run: RunFlags
) -> None:
    """Serve models through an OpenAI-compatible endpoint."""
    from llmedge.core.settings import load_settings

    settings = load_settings()
    options = endpoint.serve_options(run, settings)
    if bool(models) == bool(endpoint.models_dir):
        raise UsageError("give models or --models-dir, one of them", "llmedge serve MODEL")
    serve_files([model_path(model) for model in models or ()], endpoint, options, settings)


def serve_files(
    paths: list[Path], endpoint: EndpointFlags, options: ServeOptions, settings: Settings
) -> None:
    """Serve files, or the folder that the flags name, until the user stops it.

    Raises:
        UsageError: What is asked for cannot be meant together.
        LlmedgeError: The address is taken, or the model cannot be loaded.
    """
    from llmedge.serve.server import bind, serve

    if options.loras and len(paths) != 1:
        raise UsageError("--lora goes with one model", "serve the other models by themselves")
    with bind(options) as listener:
        served, name = _open(paths, endpoint.models_dir, options, settings)
        try:
            serve(
                served,
                options,
                listener,
                lambda url: _announce(url, name, options, endpoint.settings),
                _tracing(settings),
            )
        except InterruptedByUser:
            note("stopped")


def _open(
    paths: list[Path], folder: Path | None, options: ServeOptions, settings: Settings
) -> tuple[Served, str]:
    """Load the only model, or describe several; return them and what to call them."""
    from llmedge.serve.server import model_source, models_folder, open_engine

    if folder is not None:
        offered = models_folder(folder, options, settings)
        return offered, ", ".join(offered.look().sources) or f"what will lie in {folder}"
    if len(paths) == 1:
        engine = open_engine(paths[0], options, settings)
        return engine, engine.info.id
    sources = [model_source(path, options, settings) for path in paths]
    return sources, ", ".join(source.info.id for source in sources)


def _tracing(settings: Settings) -> Tracing | None:
    """Return what exports traces; what others' environment asks for in vain stops nothing."""
    from llmedge.serve.tracing import open_tracing

    try:
        return open_tracing(settings)
    except UnsupportedError as error:
        note(f"warning: no traces: {error.message}; {error.hint}")
        return None


def _announce(url: str, names: str, options: ServeOptions, shows_settings: bool) -> None:  # noqa: FBT001
    from llmedge.serve.guard import LOOPBACK_HOSTS

    if options.socket_path is not None:
        note(f"serving {names} on {options.socket_path} (Ctrl-C stops)")
        note(f"  curl --unix-socket {options.socket_path} http://localhost/v1/models")
        return
    note(f"serving {names} on {url}/v1 (Ctrl-C stops)")
    key = "YOUR_KEY" if options.api_keys else "none"
    note(f"  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}")
    if shows_settings:
        from llmedge.serve.client_settings import client_settings

        model = names.partition(", ")[0]
        for program, text in client_settings(url, model, has_key=bool(options.api_keys)):
            note(f"\n# {program}\n{text}")
    else:
        note("  --settings shows those of llm, LangChain, Open WebUI, Continue, Zed and others")
    if options.host not in LOOPBACK_HOSTS and not options.api_keys:
        note("warning: whoever reaches this address can use the models; there is no API key")
