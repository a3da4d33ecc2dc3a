"""Result documents → terminal tables, one JSON document, one self-contained HTML file.

Belongs here: showing results that exist. Not here: computing anything; a document holds all that is shown.
"""

from cbsurgeon.report.document import combine, parts, read_document, shown
from cbsurgeon.report.page import render_html
from cbsurgeon.report.text import render_text

__all__ = ["combine", "parts", "read_document", "render_html", "render_text", "shown"]
