"""`llmedge serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmedge.cli.options import ModelArgument, RunFlags, grouped, model_path
from llmedge.cli.output import note
from llmedge.core.errors import InterruptedByUser


@grouped
def serve_command(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    *,
    run: RunFlags,
) -> None:
    """Serve a model through an OpenAI-compatible endpoint."""
    from llmedge.core.settings import load_settings
    from llmedge.serve.server import ServeOptions, bind, open_engine, serve

    settings = load_settings()
    options = ServeOptions(host, port, run.model_options(), run.context_options(settings.threads))
    path = model_path(model)
    with bind(options) as listener:
        engine = open_engine(path, options, settings)
        try:
            serve(engine, options, listener, lambda url: _announce(url, engine.info.id, host))
        except InterruptedByUser:
            note("stopped")
        finally:
            engine.close()


def _announce(url: str, model: str, host: str) -> None:
    from llmedge.serve.app import LOOPBACK_HOSTS

    note(f"serving {model} on {url}/v1 (Ctrl-C stops)")
    note(f"  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=none")
    if host not in LOOPBACK_HOSTS:
        note("warning: whoever reaches this address can use the model; there is no API key")
