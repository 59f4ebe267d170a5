from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmedge.convert.general import (
    checkpoint_name,
    general_metadata,
    read_license,
)
from llmedge.store.hf_cache import hub_origin

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_snapshot_in_the_hubs_cache_knows_where_it_is_from(tmp_path: Path):
    folder = tmp_path / "models--Org--My-Model" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    assert hub_origin(folder) == ("Org/My-Model", COMMIT)
    assert checkpoint_name(folder) == "My-Model"
    assert general_metadata(folder)["general.source.commit"] == COMMIT


def test_any_other_folder_is_called_by_its_name(tmp_path: Path):
    assert hub_origin(tmp_path) is None
    assert general_metadata(tmp_path)["general.name"] == tmp_path.name


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("---\nlicense: mit\n---\n# X", "mit"),
        ("---\r\nlicense: 'apache-2.0'\r\n---\r\n", "apache-2.0"),
        ("---\nlicense: llama3.2 # the community's\n---\n", "llama3.2"),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\nlicense: [mit, x]\n---\n", None),
        ("# no front matter\nlicense: mit\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_licence_is_what_the_card_plainly_says(
    tmp_path: Path, card: str | None, name: str | None
):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card.encode())
    assert read_license(tmp_path) == name


def test_recommended_sampling_goes_along(tmp_path: Path):
    recommended = {"temperature": 0.6, "top_k": 20, "top_p": "high", "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    metadata = general_metadata(tmp_path)
    assert metadata["general.sampling.temp"] == 0.6
    assert metadata["general.sampling.top_k"] == 20
    assert "general.sampling.top_p" not in metadata
