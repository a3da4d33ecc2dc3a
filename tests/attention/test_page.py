"""An analysis as text and as a page: every number is shown, and no text of a document becomes markup."""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import cbsurgeon as cbs
from cbsurgeon.models.files import strict_json
from cbsurgeon.report import render_html, render_text
from cbsurgeon.report.attention import overlay
from tests.attention import small
from tests.attention.test_analyze import IMAGES, model, with_scales

pytest.importorskip("matplotlib", reason="the page draws with it")

HOSTILE = "<script>alert(1)</script>"


@cache
def written() -> str:
    """The document of two models, as a file holds it."""
    return cbs.analyze(model(small.uniform), with_scales(small.vit, 0.5, 0.1), data=IMAGES, pictures=1).to_json()


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written())
    return found


def test_the_text_has_every_layer_of_both_models_the_scales_and_the_findings() -> None:
    text = render_text(document(), width=110)
    assert text.count("blocks.0.0") == text.count("blocks.1.0") == 2
    assert text.count("context_broadcast") >= 2
    assert "the entropy of layer 1 is" in text
    assert f"{document()['layers'][1]['entropy']['mean']:.3f}" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_text_fits_its_width(width: int) -> None:
    assert max(len(line) for line in render_text(document(), width=width).splitlines()) <= width


def test_the_page_has_curves_pictures_and_numbers() -> None:
    page = render_html([document()])
    assert page.count("<svg") == 7
    assert "(Figure 4)" in page and "(Figure 8)" in page
    assert "bound ln N" in page
    assert page.count('class="shot0"') == 1 + 2 * 2  # the image, and two heads of two models
    assert "blocks.1.0, class token; yellow: the patches with 60 % of the attention" in page
    assert "var(--b)" in page  # the page's colours, light and dark


def test_the_page_says_how_it_was_made() -> None:
    found = {**document(), "command": "cbsurgeon analyze a.pt --data 'my images'"}
    page = render_html([found])
    assert "cbsurgeon analyze a.pt --data &#39;my images&#39;" in page
    assert found["environment"]["date"] in page and f"torch {torch.__version__.split('+')[0]}" in page
    assert '<i class="label">head 1</i>' in page


@pytest.mark.parametrize("field", ["reference", "data"])
def test_names_of_a_document_are_shown_as_text(field: str) -> None:
    page = render_html([{**document(), field: HOSTILE}])
    assert HOSTILE not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("pixels", ["data:image/jpeg;base64,AA);}</style><script>", "http://elsewhere/x.png", ""])
def test_an_image_that_is_no_plain_base64_is_left_out(pixels: str) -> None:
    found = document()
    found["pictures"][0]["pixels"] = pixels
    page = render_html([found])
    assert "shot0" not in page and "<script" not in page and "elsewhere" not in page


def test_a_panel_is_a_png_with_one_pixel_a_token() -> None:
    raw = base64.b64decode(overlay([0.0, 0.5, 1.0, 0.0, 0.0, 0.2], 2, 3).partition(",")[2])
    start = raw.index(b"IDAT") + 4
    rows = zlib.decompress(raw[start : start + int.from_bytes(raw[start - 8 : start - 4], "big")])
    assert len(rows) == 2 * (1 + 3 * 4)
    alphas = [rows[1 + 4 * place + 3] for place in range(3)]
    assert alphas[1] < alphas[2]
    assert rows[1:4] == b"\0\0\0" and rows[5:8] != b"\0\0\0"


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes, as Linux has them")
def test_file_names_that_are_not_utf8_are_shown_as_escapes(tmp_path: Path) -> None:
    pixels = numpy.zeros((32, 32, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    (tmp_path / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    reading = {"size": (32, 32), "crop": 1.0, "mean": "imagenet", "std": "imagenet", "interpolation": "bilinear"}
    found = cbs.analyze(model(small.vit), data=tmp_path, pictures=1, **reading)
    held = strict_json.parse(found.to_json().encode())
    assert held["pictures"][0]["name"] == "\\xff.png"
    assert any("\\xfe.png was left out: it is not an image" in remark for remark in held["remarks"])
    cbs.write_report([found.to_dict()], tmp_path / "page.html")
    assert "\\xff.png" in (tmp_path / "page.html").read_text(encoding="utf-8")
