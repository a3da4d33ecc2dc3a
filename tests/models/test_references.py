"""What a user may type, and what the answer to a slip is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError, nearest
from cbsurgeon.models import build, load
from cbsurgeon.models.reference import Reference, parse, parse_builder


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("timm:deit_small_patch16_224", "timm", "deit_small_patch16_224"),
        ("torchvision:vit_b_16", "torchvision", "vit_b_16"),
        ("hf:ViTModel", "hf", "ViTModel"),
        ("hf:./folder/of a model", "hf", "./folder/of a model"),
        ("mod:package.module:factory", "mod", "package.module:factory"),
    ],
)
def test_builder_references(text: str, kind: str, name: str) -> None:
    assert parse(text) == Reference(kind, name) == parse_builder(text)
    assert str(parse(text)) == text


def test_a_file_is_a_path_even_with_a_colon_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "a:b.pt"
    file.write_bytes(b"x")
    assert parse(str(file)) == file


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("", "CB-REF-01", "empty"),
        ("  ", "CB-REF-01", "empty"),
        ("a\0b", "CB-REF-01", "empty"),
        ("timm:", "CB-REF-01", "timm:NAME"),
        ("timn:vit", "CB-REF-01", "'timm'"),
        ("no/such/file.pt", "CB-LOAD-01", "no such file"),
        ("x" * 5000, "CB-LOAD-01", "no such file"),
    ],
)
def test_common_mistakes_get_a_suggestion(text: str, code: str, word: str) -> None:
    with pytest.raises(CBSurgeonError) as caught:
        parse(text)
    assert caught.value.code == code
    assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_architecture_is_never_a_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match="CB-REF-01"):
        parse_builder(str(file))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("timm:vit_tiny_patch16_244", "vit_tiny_patch16_224"),
        ("timm:VIT_TINY_PATCH16_224", "vit_tiny_patch16_224"),
        ("torchvision:vit_b16", "vit_b_16"),
        ("hf:VitForImageClassification", "ViTForImageClassification"),
        ("hf:AutoModelForImageClassification", "ForImageClassification"),
    ],
)
def test_an_unknown_name_gets_the_nearest(reference: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(reference)
    assert caught.value.code == "CB-REF-02"
    assert expected in f"{caught.value.why} {caught.value.do}"


def test_nearest_prefers_the_same_word_in_another_case() -> None:
    assert nearest("VIT", ["vit", "vitt", "avit"])[0] == "vit"
    assert nearest("", ["vit"]) == []


def test_arch_beside_a_builder_is_refused() -> None:
    with pytest.raises(UsageError, match="--arch is for files"):
        load("timm:vit_tiny_patch16_224", arch="timm:vit_tiny_patch16_224")


def test_a_missing_file_is_an_input_error() -> None:
    with pytest.raises(InputFileError, match="CB-LOAD-01"):
        load("missing.safetensors")
