from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmedge.convert.special_tokens import (
    Configs,
    OwnTokens,
    SpecialTokens,
    find_special_tokens,
)
from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_files import AddedToken, PostProcessor
from llmedge.core.errors import IntegrityError
from tests.convert import checkpoints

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = ("<s>", "</s>", "<|eot_id|>", "<|eom_id|>", "<end1>", "<end2>", "<end3>", "hello", "<pad>")


@pytest.fixture
def table(tmp_path: Path) -> TokenTable:
    table = TokenTable(10, tmp_path / "tokenizer.json")
    for token, text in enumerate(TOKENS):
        table.place(token, text, TokenKind.NORMAL)
    return table


def find(
    folder: Path,
    table: TokenTable,
    processor: PostProcessor | None = None,
    own: OwnTokens | None = None,
    **files: Any,
) -> SpecialTokens:
    for name, value in files.items():
        checkpoints.write_json(folder / f"{name}.json", value)
    return find_special_tokens(Configs.read(folder), table, processor, own)


def template(*names: str) -> PostProcessor:
    pieces = [{"Sequence" if name == "$A" else "SpecialToken": {"id": name}} for name in names]
    return msgspec.convert({"type": "TemplateProcessing", "single": pieces}, PostProcessor)


def test_the_generation_config_overrules_the_end_and_its_further_ends_find_a_place(
    tmp_path: Path, table: TokenTable
):
    special = find(
        tmp_path,
        table,
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"},
        generation_config={"eos_token_id": [2, 4, 5, 6]},
    )
    assert special.ids["eos"] == 2
    assert (special.ids["eot"], special.ids["eom"]) == (4, 5)
    assert any("<end3>" in note for note in special.notes)


def test_the_named_end_stays_when_it_is_among_those_of_the_generation_config(
    tmp_path: Path, table: TokenTable
):
    special = find(
        tmp_path,
        table,
        tokenizer_config={"eos_token": {"content": "</s>"}},
        generation_config={"eos_token_id": [2, 1]},
    )
    assert (special.ids["eos"], special.ids["eot"]) == (1, 2)


def test_ids_of_the_model_config_count_where_nothing_else_says_them(
    tmp_path: Path, table: TokenTable
):
    special = find(
        tmp_path,
        table,
        config={"text_config": {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 8}},
    )
    assert {role: special.ids[role] for role in ("bos", "eos", "pad")} == {
        "bos": 0,
        "eos": 1,
        "pad": 8,
    }


def test_ids_outside_the_embedding_are_ignored(tmp_path: Path, table: TokenTable):
    with pytest.raises(IntegrityError, match="which token ends a text"):
        find(tmp_path, table, config={"eos_token_id": 1000, "bos_token_id": -4})


def test_a_missing_bos_is_the_end_and_never_added(tmp_path: Path, table: TokenTable):
    special = find(tmp_path, table, tokenizer_config={"eos_token": "</s>"})
    assert (special.ids["bos"], special.adds_bos) == (1, False)
    assert special.values()["tokenizer.ggml.add_bos_token"] is False


def test_the_post_processor_says_what_is_added(tmp_path: Path, table: TokenTable):
    config = {"eos_token": "</s>"}
    special = find(tmp_path, table, template("<s>", "$A", "</s>"), tokenizer_config=config)
    assert (special.ids["bos"], special.adds_bos, special.adds_eos) == (0, True, True)
    nested = PostProcessor("Sequence", processors=(PostProcessor("ByteLevel"), template("$A")))
    assert not find(tmp_path, table, nested).adds_bos
    bert = PostProcessor("BertProcessing", cls=("<s>", 0), sep=("</s>", 1))
    assert find(tmp_path, table, bert).adds_bos


def test_an_explicit_flag_overrules_the_post_processor(tmp_path: Path, table: TokenTable):
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    special = find(tmp_path, table, template("<s>", "$A", "</s>"), tokenizer_config=config)
    assert (special.adds_bos, special.adds_eos) == (False, False)


def test_more_than_one_token_in_front_is_noted(tmp_path: Path, table: TokenTable):
    config = {"eos_token": "</s>"}
    special = find(tmp_path, table, template("<s>", "<end1>", "$A"), tokenizer_config=config)
    assert any("<s> <end1> …" in note for note in special.notes)


def test_what_a_file_knows_itself_is_used_unless_a_config_says_otherwise(
    tmp_path: Path, table: TokenTable
):
    own = OwnTokens({"bos": "<s>", "eos": "</s>"})
    special = find(tmp_path, table, own=own)
    assert (special.bos, special.eos, special.adds_bos) == ("<s>", "</s>", True)
    special = find(tmp_path, table, own=own, tokenizer_config={"eos_token": "<|eot_id|>"})
    assert special.eos == "<|eot_id|>"


def test_tokens_that_frame_a_text_become_control_tokens(tmp_path: Path, table: TokenTable):
    find(
        tmp_path,
        table,
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "hello"},
    )
    assert table.kinds[0] == table.kinds[1] == TokenKind.CONTROL
    assert table.kinds[7] == TokenKind.NORMAL


def test_a_named_token_that_is_missing_is_noted(tmp_path: Path, table: TokenTable):
    special = find(
        tmp_path, table, special_tokens_map={"eos_token": "</s>", "mask_token": "<mask>"}
    )
    assert special.notes == ("the mask token '<mask>' is not in the vocabulary",)


def test_added_tokens_of_other_files_join_the_tokenizers_own(tmp_path: Path):
    entries = {"7": {"content": "<own>", "special": True}, "8": {"content": "<new>"}}
    checkpoints.write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": entries})
    checkpoints.write_json(tmp_path / "added_tokens.json", {"<listed>": 9})
    own = [AddedToken(7, "<own>", special=True)]
    assert [token.id for token in Configs.read(tmp_path).added_tokens(own)] == [7, 8]
    (tmp_path / "tokenizer_config.json").unlink()
    assert Configs.read(tmp_path).added_tokens(None) == [AddedToken(9, "<listed>")]
