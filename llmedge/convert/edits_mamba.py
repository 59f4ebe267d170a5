"""State-space layers: the names and edits that all models with Mamba layers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.architecture import Guard
from llmedge.convert.edits import drop_unit_axes
from llmedge.convert.rows import Rows, apply, reshape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.architecture import Edit
    from llmedge.convert.config import Config


def mamba_block(module: str) -> dict[str, str]:
    """Return the tensors of a Mamba layer, of either version.

    Args:
        module: The layer's name within a block.
    """
    names = {
        "in_proj": "ssm_in",
        "conv1d": "ssm_conv1d",
        "x_proj": "ssm_x",
        "dt_proj": "ssm_dt",
        "dt_bias": "ssm_dt.bias",
        "A_log": "ssm_a",
        "D": "ssm_d",
        "norm": "ssm_norm",
        "out_proj": "ssm_out",
    }
    return {f"{module}.{name}": target for name, target in names.items()}


def negative_exp(rows: Rows, _: Config) -> Rows:
    """Turn the logarithm of the decay into the decay."""
    return apply(rows, lambda floats: -np.exp(floats))


def _column(rows: Rows, _: Config) -> Rows:
    return reshape(rows, (rows.n_columns, 1))


def _negative_exp_column(rows: Rows, config: Config) -> Rows:
    return _column(negative_exp(rows, config), config)


MAMBA1_EDITS: Mapping[str, Edit] = {"ssm_conv1d": drop_unit_axes, "ssm_a": negative_exp}


def mamba2_edits(n_groups: Callable[[Config], int]) -> Mapping[str, Edit]:
    """Return the edits of the second version: one decay a head, and a norm in groups."""

    def grouped(rows: Rows, config: Config) -> Rows:
        groups = n_groups(config)
        return reshape(rows, (groups, rows.n_columns // groups))

    return {
        "ssm_conv1d": drop_unit_axes,
        "ssm_a": _negative_exp_column,
        "ssm_d": _column,
        "ssm_norm": grouped,
    }


def _is_unlimited(config: Config) -> bool:
    limits = config.items("time_step_limit") if config.has("time_step_limit") else []
    infinite = (float("inf"), {"__float__": "Infinity"})  # newer spelling: JSON has no infinity
    return not limits or (limits[0] == 0 and limits[1] in infinite)


UNLIMITED_TIME_STEP = Guard("time_step_limit", _is_unlimited, "llama.cpp does not limit time steps")
