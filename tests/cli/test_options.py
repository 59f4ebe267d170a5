import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer

from llmedge.cli.options import RunFlags, SamplingFlags, ShowFlags, grouped, model_path
from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions
from llmedge.runtime.sampler import SamplingOptions


@dataclasses.dataclass(frozen=True)
class Flags:
    size: Annotated[int, typer.Option()] = 3
    loud: bool = False


def test_a_group_becomes_one_option_a_field():
    @grouped
    def command(name: str, *, flags: Flags) -> object:
        """Say it."""
        return name, flags

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["name", "size", "loud"]
    assert parameters["size"].default == 3
    assert get_type_hints(command)["size"] is int
    assert command(name="x", size=5, loud=True) == ("x", Flags(5, loud=True))
    assert command.__doc__ == "Say it."


def test_the_running_options_defaults_are_the_runtimes():
    assert RunFlags().context_options(None) == ContextOptions()
    assert RunFlags().context_options(None, default_ctx=512).n_ctx == 512
    assert RunFlags(ctx=0).context_options(None, default_ctx=512).n_ctx == 0
    assert RunFlags(ctx=99, batch=7).context_options(None, default_ctx=512).n_ctx == 99
    assert RunFlags().model_options() == ModelOptions()


def test_several_slots_are_refused_but_where_requests_come_together():
    assert RunFlags().context_options(None, default_slots=4).n_seq_max == 4
    assert RunFlags(slots=9).context_options(None, default_slots=4).n_seq_max == 9
    with pytest.raises(UnsupportedError, match="4 slots"):
        RunFlags(slots=4).context_options(None)


def test_threads_come_from_the_flag_and_then_from_the_settings():
    assert RunFlags(threads=3).context_options(7).n_threads == 3
    assert RunFlags().context_options(7).n_threads == 7


def test_the_sampling_options_defaults_are_the_runtimes():
    options = SamplingFlags().generation_options()
    assert options.sampling == SamplingOptions()
    assert options.max_tokens is None


def test_json_is_short_for_the_format():
    assert ShowFlags().chosen == "table"
    assert ShowFlags(format="csv").chosen == "csv"
    assert ShowFlags(format="csv", json=True).chosen == "json"


def test_a_reference_on_the_command_line_becomes_a_file(tmp_path: Path):
    path = tmp_path / "x.gguf"
    path.touch()
    assert model_path(str(path)) == path
    with pytest.raises(NotFoundError):
        model_path("nothing")
    with pytest.raises(UsageError):
        model_path("not a model")
