"""Reading result documents: other files are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.report import combine, parts, read_document
from cbsurgeon.report.summary import next_steps
from tests.report import documents


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "CB-REPORT-01"),
        ("{", "CB-REPORT-01"),
        ("[" * 100_000, "CB-REPORT-01"),
        ("[]", "CB-REPORT-02"),
        ("{}", "CB-REPORT-02"),
        ('{"schema": 3}', "CB-REPORT-02"),
        ('{"schema": "other.tool/1"}', "CB-REPORT-02"),
        ('{"schema": "cbsurgeon.audit/2", "params": {}, "flops": {}, "bytes": {}}', "CB-REPORT-02"),
        ('{"schema": "cbsurgeon.audit/1"}', "CB-REPORT-02"),
        ('{"schema": "cbsurgeon.report/1", "documents": [{"schema": "cbsurgeon.audit/1"}]}', "CB-REPORT-02"),
    ],
)
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(InputFileError) as caught:
        read_document(file)
    assert caught.value.code == code and "result.json" in caught.value.where


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(b"\x80\x81\xff")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_document(file)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFileError, match="cannot be read"):
        read_document(tmp_path / name)


def test_a_document_survives_the_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "ship.json"
    document = documents.shipment()
    file.write_text(json.dumps(document))
    assert read_document(file) == document


def test_combining_flattens_and_keeps_the_order() -> None:
    one, two = documents.shipment(), documents.audit()
    combined = combine([two, one])
    assert [part["schema"] for part in combined["documents"]] == [
        two["schema"],
        *(p["schema"] for p in one["documents"]),
    ]
    assert combined["title"] == one["title"] and combined["environment"] == one["environment"]
    assert list(parts(combined)) == combined["documents"]


def test_combining_nothing_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        combine([])
    assert caught.value.code == "CB-REPORT-03"


def test_commands_for_the_users_own_architecture_have_the_flags_that_load_it() -> None:
    shipment = documents.shipment()
    assert next_steps([shipment])[-1][1][-1].endswith("shipped/model.safetensors --on onnxruntime")
    shipment["weights"]["architecture"] = "mod:net:build"
    assert next_steps([shipment])[-1][1][-1].endswith("--on onnxruntime --arch mod:net:build --input 3x224x224")


def test_the_title_of_a_comparison_names_both_models() -> None:
    analysis = {**documents.analysis(), "reference": "plain.pt", "candidate": {"name": "edited.pt"}}
    assert combine([analysis])["title"] == "plain.pt and edited.pt"
