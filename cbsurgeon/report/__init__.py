"""Showing results: as tables in the terminal, as one JSON document, and as one self-contained HTML file.

Belongs here: formatting existing results. Not here: any computation; a result document contains everything that is
shown.
"""

from cbsurgeon.report.document import combine, parts, read_document, shown
from cbsurgeon.report.page import render_html
from cbsurgeon.report.text import render_text

__all__ = ["combine", "parts", "read_document", "render_html", "render_text", "shown"]
