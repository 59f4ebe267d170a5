"""The endpoint on a socket: until a signal in the foreground, or on a thread."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, cast

import llmedge
from llmedge.core.errors import EngineError, UnsupportedError, UsageError
from llmedge.engine.engine import Engine, ModelInfo
from llmedge.engine.process import EngineOptions, EngineProcess
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.engine.state_folder import lasting_salt
from llmedge.gguf.memory import KvCacheOptions, estimate_memory
from llmedge.gguf.reader import read_header
from llmedge.host.memory import read_memory
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.embedding import trained_pooling
from llmedge.runtime.first_load import ensure_loads
from llmedge.runtime.library import library_info
from llmedge.runtime.model import ModelOptions
from llmedge.serve.app import build_app
from llmedge.serve.guard import GuardOptions, guard_for
from llmedge.serve.head_deadline import protocol_with_head_deadline
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.local_socket import bind_path
from llmedge.serve.metrics import Meters
from llmedge.serve.models_folder import ModelsFolder
from llmedge.serve.pool import ModelPool, ModelSource, pool_of
from llmedge.serve.served import Defaults
from llmedge.serve.stream import KEEP_ALIVE_S
from llmedge.store.catalog import model_id

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import uvicorn

    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header
    from llmedge.runtime.lora import LoraOptions
    from llmedge.serve.tracing import Tracing

Served: TypeAlias = "Engine | Sequence[ModelSource] | ModelsFolder"

_START_TIMEOUT_S = 30.0
# Errors that end answers are still sent after the engines are closed.
_LAST_WORDS_S = 4.0
# llama.cpp's compute buffers, and the process around them.
_ENGINE_BYTES = 264 << 20  # saved states among it
_N_IDLE = 4  # every step looks at the cells of ended conversations, too


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        model: How to load a model.
        context: How to run it.
        limits: How much is let in.
        api_keys: One of them must be shown; none asks for none.
        allow_anonymous: Answer everybody who reaches the address, also without keys.
        hosts: Further names of this machine.
        origins: Web pages that may ask.
        ttl_s: Seconds after which a model that nobody uses is unloaded, where there are several.
        keep_alive_s: Silence in a stream after which the client is told that it is not over.
        n_draft: Most tokens to guess ahead; 0 guesses none.
        draft_path: The GGUF file of a model that guesses them; `None` guesses by prompt lookup.
        loras: LoRA adapters to load with the model, of which there is one then.
        tls_cert: PEM file of a certificate, its chain after it; `None` speaks plain HTTP.
        tls_key: PEM file of its key; `None` where the certificate's file has it.
        socket_path: Listen on this Unix socket instead of an address; for its owner alone.
        aliases: Further names of the only model.
        defaults: What requests get that do not name it.
        cache_dir: Where computed prefixes lie between two runs; `None` keeps none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions()
    limits: Limits = field(default_factory=Limits)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_anonymous: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    ttl_s: float | None = None
    keep_alive_s: float = KEEP_ALIVE_S
    n_draft: int = 0
    draft_path: Path | None = None
    loras: tuple[LoraOptions, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    socket_path: Path | None = None
    aliases: tuple[str, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    cache_dir: Path | None = None

    def guard(self) -> GuardOptions:
        """Return who may ask.

        Raises:
            UsageError: Everybody could, and it was not said that this is meant.
        """
        guard = guard_for(
            self.host,
            api_keys=self.api_keys,
            allow_anonymous=self.allow_anonymous,
            hosts=self.hosts,
            origins=self.origins,
        )
        return (
            guard if self.cache_dir is None else replace(guard, salt=lasting_salt(self.cache_dir))
        )


def open_engine(path: Path, options: ServeOptions, settings: Settings) -> EngineProcess:
    """Load a model to be served, in a process of its own.

    Raises:
        UnsupportedError: The model neither generates text nor embeds it.
        IntegrityError: The file is damaged.
        ResourceError: The memory is not there.
    """
    ensure_loads(path, settings.state_dir)
    if options.draft_path is not None:
        ensure_loads(options.draft_path, settings.state_dir)
    context = options.context
    engine_options = EngineOptions(
        model=options.model,
        context=context,
        scheduler=SchedulerOptions(n_slots=context.n_seq_max, n_idle=_N_IDLE),
        n_draft=options.n_draft,
        draft_path=options.draft_path,
        loras=options.loras,
        cache_dir=options.cache_dir,
    )
    return EngineProcess.open(path, model_id(settings, path), engine_options)


def models_folder(path: Path, options: ServeOptions, settings: Settings) -> ModelsFolder:
    """Offer whatever lies in a folder.

    Raises:
        NotFoundError: It is no folder, or cannot be read.
    """
    return ModelsFolder(path, lambda file, header: model_source(file, options, settings, header))


def model_source(
    path: Path, options: ServeOptions, settings: Settings, header: Header | None = None
) -> ModelSource:
    """Describe a model that is loaded when it is asked for.

    Raises:
        IntegrityError: The file is damaged.
    """
    header = header or read_header(path)
    context = options.context
    n_ctx = context.n_ctx or header.hyperparameter("context_length") or 0
    n_bytes = _ENGINE_BYTES + _model_bytes(header, context, n_ctx)
    if options.draft_path is not None:
        n_bytes += _model_bytes(read_header(options.draft_path), context, n_ctx)
    pooling = context.pooling or trained_pooling(header)
    info = ModelInfo(
        id=model_id(settings, path),
        created=int(path.stat().st_mtime),
        architecture=header.architecture,
        n_ctx=n_ctx,
        n_ctx_train=header.hyperparameter("context_length") or 0,
        n_params=header.n_weights,
        size_bytes=header.tensor_bytes,
        n_slots=context.n_seq_max,
        can_generate=pooling is None,
        can_embed=pooling not in (None, "rank"),
        can_rerank=pooling == "rank",
    )
    return ModelSource(info, lambda: open_engine(path, options, settings), n_bytes)


def _model_bytes(header: Header, context: ContextOptions, n_ctx: int) -> int:
    """Return what a model takes with its kv cache."""
    cache = KvCacheOptions(
        n_ctx, context.type_k, context.type_v, context.n_ubatch, context.n_seq_max
    )
    try:
        return estimate_memory(header, cache).total_bytes
    except UnsupportedError:
        return header.tensor_bytes  # the cache of this architecture is not modelled


def serve(
    served: Served,
    options: ServeOptions,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    tracing: Tracing | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    No more requests are taken then; answers that are being given get some seconds to end, and after
    that an error.

    Args:
        served: An engine, or models to load when they are asked for, or the folder where they
            lie; closed at the end.
        options: How to serve.
        listener: Where to listen, from `bind`.
        on_ready: Called with the base URL once requests are answered.
        tracing: Makes spans of requests; closed at the end.
    """
    endpoint = _Endpoint(served, options, tracing)
    server = endpoint.server
    url = _url(listener, options)
    threading.Thread(target=_report_ready, args=(server, url, on_ready), daemon=True).start()
    threading.Thread(target=endpoint.drain_when_stopped, daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        endpoint.pool.close()
        if tracing is not None:
            tracing.close()


@contextlib.contextmanager
def background_server(served: Served, options: ServeOptions) -> Generator[str]:
    """Serve on a thread and yield the base URL; leaving the context stops the server.

    Raises:
        UsageError: The address cannot be listened on.
        EngineError: The server did not start.
    """
    with bind(options) as listener:
        endpoint = _Endpoint(served, options)
        server = endpoint.server
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            if not _wait_until_started(server):
                raise EngineError("the endpoint did not start")
            yield _url(listener, options)
        finally:
            server.should_exit = True
            thread.join(options.limits.drain_s + 2 * _LAST_WORDS_S)


class _Endpoint:
    """A server with all that belongs to it."""

    def __init__(
        self, served: Served, options: ServeOptions, tracing: Tracing | None = None
    ) -> None:
        import uvicorn

        self._options = options
        limits, self._drain, meters = options.limits, Drain(), Meters()
        if isinstance(served, ModelsFolder | list | tuple):
            if options.aliases:
                raise UsageError(
                    f"--alias {options.aliases[0]} does not say which model it is a name of",
                    "serve one model, or leave --alias out",
                )
            self.pool = ModelPool(
                cast("Sequence[ModelSource] | ModelsFolder", served),
                limits,
                self._drain,
                meters,
                ttl_s=options.ttl_s,
                free_bytes=lambda: read_memory().available_bytes,
                defaults=options.defaults,
            )
        else:
            self.pool = pool_of(
                cast("Engine", served),
                limits,
                self._drain,
                meters,
                aliases=options.aliases,
                defaults=options.defaults,
            )
        app = build_app(
            self.pool,
            meters,
            options.guard(),
            fingerprint=f"llmedge-{llmedge.__version__}-{library_info().commit}",
            keep_alive_s=options.keep_alive_s,
            tracing=tracing,
        )
        config = uvicorn.Config(
            app,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            http=protocol_with_head_deadline(limits.head_s),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.max_connections,
            timeout_graceful_shutdown=int(limits.drain_s + _LAST_WORDS_S),
        )
        self.server = uvicorn.Server(config)

    def drain_when_stopped(self) -> None:
        """Once the server is asked to stop, end what still runs after the seconds of grace."""
        while not self.server.should_exit:
            time.sleep(0.1)
        self._drain.begin()
        time.sleep(self._options.limits.drain_s)
        self.pool.close()


def bind(options: ServeOptions) -> socket.socket:
    """Take the address, before a model is loaded for it.

    Raises:
        UsageError: The address cannot be listened on, or must not be.
    """
    options.guard()
    _require_tls(options)
    if options.socket_path is not None:
        return bind_path(options.socket_path)
    if not 0 <= options.port <= 65535:
        raise UsageError(f"port {options.port} is not from 0 to 65535")
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{options.host}:{options.port} cannot be listened on: "
            f"{getattr(error, 'strerror', None) or error}",
            "choose another port with --port, or 0 for a free one",
        ) from None
    # What is accepted here inherits it. asyncio sets it only where a socket says that it is TCP;
    # without it, an answer's second packet waits 40 ms for the client to confirm the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _require_tls(options: ServeOptions) -> None:
    """Make sure that certificate and key belong together, before a model is loaded.

    Raises:
        UsageError: They do not, or cannot be read.
    """
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise UsageError("a TLS key is of no use alone", "add --tls-cert")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:  # ssl's own errors, too
        raise UsageError(
            f"{options.tls_cert} is no certificate with its key: {error.strerror or error}",
            "give PEM files: --tls-cert cert.pem --tls-key key.pem",
        ) from None


def _url(listener: socket.socket, options: ServeOptions) -> str:
    if options.socket_path is not None:
        return f"http+unix://{options.socket_path}"
    host, port = listener.getsockname()[:2]
    scheme = "http" if options.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _wait_until_started(server: uvicorn.Server) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.started and not server.should_exit and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.started


def _report_ready(server: uvicorn.Server, url: str, on_ready: Callable[[str], None]) -> None:
    if _wait_until_started(server):
        on_ready(url)
