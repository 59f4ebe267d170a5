"""The endpoint on a socket: until a signal in the foreground, or on a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import EngineError, UnsupportedError, UsageError
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.first_load import ensure_loads, require_text
from llmedge.runtime.library import library_info
from llmedge.runtime.model import Model, ModelOptions
from llmedge.serve.app import LOOPBACK_HOSTS, build_app
from llmedge.serve.in_process import InProcessEngine
from llmedge.store.catalog import model_id

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import uvicorn

    from llmedge.core.settings import Settings
    from llmedge.serve.engine import Engine

_GRACE_S = 4
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        model: How to load the model.
        context: How to run it.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions()


def open_engine(path: Path, options: ServeOptions, settings: Settings) -> InProcessEngine:
    """Load a model to be served.

    Raises:
        UnsupportedError: The model cannot generate text.
        IntegrityError: The file is damaged.
        ResourceError: The memory is not there.
    """
    require_text(ensure_loads(path, settings.state_dir))
    model = Model.load(path, options.model)
    try:
        if not model.can_generate:
            raise UnsupportedError(f"{path.name} is not a model that generates text")
        context = Context(model, options.context)
    except BaseException:
        model.close()
        raise
    return InProcessEngine(context, model_id(settings, path))


def serve(
    engine: Engine,
    options: ServeOptions,
    listener: socket.socket,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM.

    Answers that are being given then get some seconds to end, and after that an error.

    Args:
        engine: Closed when the seconds are over, and by the caller in any case.
        options: How to serve.
        listener: Where to listen, from `bind`.
        on_ready: Called with the base URL once requests are answered.
    """
    server = _server(engine, options)
    threading.Thread(target=_report_ready, args=(server, listener, on_ready), daemon=True).start()
    threading.Thread(target=_close_after_grace, args=(server, engine), daemon=True).start()
    server.run(sockets=[listener])


@contextlib.contextmanager
def background_server(engine: Engine, options: ServeOptions) -> Generator[str]:
    """Serve on a thread and yield the base URL; leaving the context stops the server.

    Raises:
        UsageError: The address cannot be listened on.
        EngineError: The server did not start.
    """
    with bind(options) as listener:
        server = _server(engine, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            if not _wait_until_started(server):
                raise EngineError("the endpoint did not start")
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join(3 * _GRACE_S)


def _server(engine: Engine, options: ServeOptions) -> uvicorn.Server:
    import uvicorn

    allowed = LOOPBACK_HOSTS if options.host in LOOPBACK_HOSTS else ("*",)
    fingerprint = f"llmedge-{llmedge.__version__}-{library_info().commit}"
    app = build_app(engine, fingerprint=fingerprint, allowed_hosts=allowed)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=2 * _GRACE_S,
    )
    return uvicorn.Server(config)


def bind(options: ServeOptions) -> socket.socket:
    """Take the address, before a model is loaded for it.

    Raises:
        UsageError: The address cannot be listened on.
    """
    if not 0 <= options.port <= 65535:
        raise UsageError(f"port {options.port} is not from 0 to 65535")
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{options.host}:{options.port} cannot be listened on: "
            f"{getattr(error, 'strerror', None) or error}",
            "choose another port with --port, or 0 for a free one",
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_until_started(server: uvicorn.Server) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.started and not server.should_exit and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.started


def _report_ready(
    server: uvicorn.Server, listener: socket.socket, on_ready: Callable[[str], None]
) -> None:
    if _wait_until_started(server):
        on_ready(_url(listener))


def _close_after_grace(server: uvicorn.Server, engine: Engine) -> None:
    """Once the server is asked to stop, end what still runs after the seconds of grace."""
    while not server.should_exit:
        time.sleep(0.1)
    time.sleep(_GRACE_S)
    engine.close()
