"""Hostile names are harmless in JSON on the terminal and in the HTML page, and outputs of another kind are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon import Model, cli, verbs
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models import save
from tests.cli.test_visible import HOSTILE, harmless
from tests.report import documents


def hostile(value: Any, name: str = "") -> Any:
    """Append hostile characters to every text of a document except its schema."""
    if isinstance(value, dict):
        return {key: hostile(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, name) for item in value]
    return value + HOSTILE if isinstance(value, str) and name in ("a", "b", "reference", "layers", "title") else value


def test_json_on_a_terminal_is_harmless_and_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"schema": "cbsurgeon.insert/1", HOSTILE: [HOSTILE, {"x": "é 漢\n\t\\u202e"}]}
    Terminal(json=True).show(document)
    shown = capsys.readouterr().out
    assert harmless(shown)
    assert json.loads(shown) == document
    assert "é 漢" in shown, "letters stay readable"


def test_the_page_is_harmless(tmp_path: Path) -> None:
    page = verbs.write_report([hostile(documents.insertion()), hostile(documents.audit())], tmp_path / "r.html")
    text = page.read_text(encoding="utf-8")
    assert harmless(text)
    assert "\\x1b]0;owned" in text and "\\u202e" in text


@pytest.mark.parametrize(
    ("document", "field"),
    [(documents.verification(), "tolerance"), (documents.benchmark(), "median_seconds"), (documents.audit(), "flops")],
    ids=["verify", "bench", "audit"],
)
@pytest.mark.parametrize("value", ["text", 5, True, [1], 1e308])
def test_a_page_of_a_document_with_a_field_of_another_type_is_refused(
    document: dict[str, Any], field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edited.json"
    file.write_text(json.dumps({**document, field: value}))
    assert cli.main(["report", str(file), "-o", str(tmp_path / "r.html")]) == 2
    assert "CB-REPORT-02" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["r.safetensors", "r.json", "r", "r.onnx"])
def test_a_report_never_replaces_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    target.write_bytes(b"weights")
    with pytest.raises(UsageError, match="CB-REPORT-04"):
        verbs.write_report([documents.insertion()], target, force=True)
    assert target.read_bytes() == b"weights"


@pytest.mark.parametrize("words", [["insert", "missing.pt"], ["remove", "missing.pt"]])
def test_the_suffix_is_refused_before_anything_is_loaded(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "missing.pt").write_bytes(b"not a model")
    assert cli.main([*words, "-o", "w.onnx"]) == 2
    assert "CB-SAVE-01" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_named_as_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a\udcff.safetensors"
    model = Model(nn.Linear(2, 2), (torch.randn(1, 2),))
    with pytest.raises(InputFileError, match="not UTF-8") as refused:
        save(model, path)
    assert "names in UTF-8" in refused.value.do
    assert list(tmp_path.iterdir()) == []
