"""The HTML report in a real browser: every section, no overflow, no console message, on a desk and on a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cbsurgeon.report import render_html
from cbsurgeon.report.page import SECTIONS
from tests.report import documents

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SECONDS = 60
DESK, PHONE = 1280, 390

PAPER = 718
"""CSS pixels across A4 (210 mm at 96 per inch) between Chromium's margins of 0.4 inch."""

# A difference of one pixel between a box and its container is rounding of sub-pixel layout, not overflow.
SUBPIXEL = 1

# The page is loaded in a frame of the wanted width: headless Chromium makes no window narrower than 500 pixels.
FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" style="border:0;width:%(width)dpx;height:800px" srcdoc="%(page)s"></iframe>
<script>
document.getElementById("page").addEventListener("load", event => {
  const page = event.target.contentDocument;
  page.querySelectorAll("details").forEach(each => { each.open = true; });
  const width = page.documentElement.clientWidth;
  const inside = node => node.closest(".scroll, pre") !== null;
  const wide = [...page.querySelectorAll("body *")].filter(
    node => !inside(node) && node.getBoundingClientRect().right > width + %(slack)d);
  const box = node => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; };
  const measured = {
    scroll: page.documentElement.scrollWidth,
    client: width,
    wide: wide.map(node => node.tagName + "." + node.getAttribute("class")),
    sections: Object.fromEntries([...page.querySelectorAll("section")].map(node => [node.id, box(node)])),
    figures: [...page.querySelectorAll("figure svg, svg.network")].map(box),
    text: Math.min(...[...page.querySelectorAll("svg text")].map(node => node.getBoundingClientRect().height)),
    background: getComputedStyle(page.body).backgroundColor,
  };
  document.body.insertAdjacentHTML("beforeend", '<output id="measured"></output>');
  document.getElementById("measured").textContent = JSON.stringify(measured);
});
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "profile"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=folder)


def measure(folder: Path, page: str, width: int, *flags: str) -> tuple[dict[str, Any], list[str]]:
    frame = folder / "frame.html"
    frame.write_text(FRAME % {"width": width, "page": html.escape(page), "slack": SUBPIXEL}, encoding="utf-8")
    done = chromium(folder, "--enable-logging=stderr", "--window-size=1400,900", *flags, "--dump-dom", frame.as_uri())
    match = re.search(r'<output id="measured">(\{.*?)</output>', done.stdout, re.DOTALL)
    assert match, f"the probe did not run: {done.stderr[-2000:]}"
    return json.loads(html.unescape(match[1])), re.findall(r".*CONSOLE.*", done.stderr)


@pytest.fixture(scope="module")
def page() -> str:
    """Everything there can be on one page."""
    return render_html([documents.shipment(), documents.audit(shares=True), documents.sweep()])


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_every_section_is_there_and_fits(page: str, width: int, tmp_path: Path) -> None:
    measured, messages = measure(tmp_path, page, width)
    assert messages == []
    assert list(measured["sections"]) == list(SECTIONS)
    assert all(box[2] > 100 and box[3] > 40 for box in measured["sections"].values())
    assert measured["scroll"] <= width + SUBPIXEL
    assert measured["wide"] == []


def test_plots_are_readable_on_a_phone(page: str, tmp_path: Path) -> None:
    measured, _ = measure(tmp_path, page, PHONE)
    # network, one block, parity by batch and block, two costs, latency, own time; the last four once more;
    # seven of the attention, and two of the sweep
    assert len(measured["figures"]) == 12 + 7 + 2
    assert all(box[2] > 300 for box in measured["figures"])
    assert measured["text"] >= 9  # pixels: the smallest letters in any picture, about 7 points on paper


def test_dark_mode_follows_the_reader(page: str, tmp_path: Path) -> None:
    light, _ = measure(tmp_path, page, DESK)
    dark, _ = measure(tmp_path, page, DESK, "--blink-settings=preferredColorScheme=0")
    assert brightness(light["background"]) > 200
    assert brightness(dark["background"]) < 60


def test_the_probe_sees_an_overflow_and_a_console_error(tmp_path: Path) -> None:
    broken = (
        "<!doctype html><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
        "<section id='x'><table width='2000'><tr><td>wide</td></tr></table><img src='https://example.invalid/x.png'>"
        "</section><svg><text>t</text></svg>"
    )
    measured, messages = measure(tmp_path, broken, PHONE)
    assert measured["scroll"] > PHONE
    assert measured["wide"]
    assert messages


def test_a_screenshot_shows_the_inserted_operators(page: str, tmp_path: Path) -> None:
    """The screenshot has the colour of operators at the inserted dots, and every section has visible content."""
    image = pytest.importorskip("PIL.Image", reason="reading a screenshot needs Pillow, which matplotlib brings")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "page.png"
    chromium(tmp_path, f"--window-size={DESK},5000", f"--screenshot={shot}", (tmp_path / "page.html").as_uri())
    picture = image.open(shot).convert("RGB")
    assert picture.size == (DESK, 5000)
    colors = {color: number for number, color in picture.getcolors(maxcolors=2**24)}
    dot = (
        3.14159 * (8 * 420 / 360) ** 2
    )  # one inserted dot: radius 8 of a picture 360 wide, drawn up to 420 pixels wide
    assert colors.get((0x0B, 0x6B, 0xCB), 0) > 6 * dot * 0.5
    strips = [picture.crop((0, top, DESK, top + 250)) for top in range(0, 3000, 250)]
    assert all(len(strip.getcolors(maxcolors=2**24)) > 3 for strip in strips)


def test_printed_it_has_every_section(page: str, tmp_path: Path) -> None:
    """The PDF's outline, which Chromium makes of the headings it laid out, names them in order, on pages that exist."""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    paper = tmp_path / "page.pdf"
    arguments = ("--no-pdf-header-footer", "--generate-pdf-document-outline", f"--print-to-pdf={paper}")
    chromium(tmp_path, *arguments, (tmp_path / "page.html").as_uri())
    raw = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", raw))
    assert pages >= 3  # more than a screenful: nothing was cut off after the first sheet
    titles = [text.decode("latin-1") for text in re.findall(rb"/Title\s*\(((?:[^()\\]|\\.)*)\)", raw)]
    headings = re.findall(r"<section id=\"(\w+)\">\s*<h2>([^<]+)</h2>", page)
    assert [name for name, _ in headings] == list(SECTIONS)
    at = [titles.index(heading) for _, heading in headings]
    assert len(set(at)) == len(SECTIONS)


def test_printed_it_fits_the_paper(page: str, tmp_path: Path) -> None:
    """Laid out by the rules for paper, at the width A4 leaves, nothing reaches beyond the edge, tables included."""
    assert page.count("@media print") == 1
    printed = page.replace("@media print", "@media all").replace('class="scroll"', 'class="paper"')
    measured, messages = measure(tmp_path, printed, PAPER)
    assert messages == []
    assert measured["scroll"] <= PAPER + SUBPIXEL
    assert measured["wide"] == []


def brightness(color: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", color)[:3]) / 3
