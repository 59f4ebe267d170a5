from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.checkpoint_template import check_template, find_template
from llmedge.core.errors import IntegrityError
from tests.convert.checkpoints import write_json

if TYPE_CHECKING:
    from pathlib import Path


def test_the_template_comes_from_the_first_of_three_places(tmp_path: Path):
    assert find_template(tmp_path) is None
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "from config"})
    assert find_template(tmp_path) == "from config"
    write_json(tmp_path / "chat_template.json", {"chat_template": "from json"})
    assert find_template(tmp_path) == "from json"
    (tmp_path / "chat_template.jinja").write_text("from jinja")
    assert find_template(tmp_path) == "from jinja"


def test_of_several_templates_the_default_is_taken(tmp_path: Path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert find_template(tmp_path) == "d"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named[:1]})
    assert find_template(tmp_path) is None


def test_a_template_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match=r"chat_template\.jinja"):
        find_template(tmp_path)


def test_a_template_is_rendered_once(tmp_path: Path):
    def check(source: str) -> str:
        return check_template(tmp_path, source, bos="<s>", eos="</s>")

    assert check("{{ bos_token }}{{ messages[0]['content'] }}") == ""
    assert check("{{ raise_exception('no users here') }}") == ""
    assert "fails" in check("{{ nothing.at.all }}")
    assert check("{% for a in range(9**9) %}{% endfor %}")
    with pytest.raises(IntegrityError, match="broken"):
        check("{% if %}")
