"""Report page of a run: one self-contained HTML file, figures included.

write_page(folder.report, "A title", [paragraph("A note."), preformatted(text), figure(path)])
"""

import html
from collections.abc import Sequence
from pathlib import Path

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }}
.num {{ font-variant-numeric: tabular-nums; width: 4rem; }}
.note {{ color: #a33; }}
figure {{ margin: 1.5rem 0; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page.

    Args:
        path: HTML file.
        title: plain text.
        parts: HTML, from the functions below.
    """
    page = PAGE.format(title=html.escape(title), body="\n".join(parts))
    path.write_text(page, encoding="utf-8")


def heading(text: str, level: int = 2) -> str:
    """Heading of a level."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """Paragraph of plain text; the kind `note` is a warning."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def preformatted(text: str) -> str:
    """Text with its line breaks and columns, as on a terminal."""
    return f"<pre>{html.escape(text)}</pre>"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), number: bool = False) -> str:
    """Table of plain texts.

    Args:
        rows: cells of each row.
        head: headings of the columns.
        number: True if the first column holds numbers.
    """
    headings = "".join(f"<th>{html.escape(cell)}" for cell in head)
    lines = [f"<tr>{headings}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}" for cell in others)
        kind = " class=num" if number else ""
        lines.append(f"<tr><td{kind}>{html.escape(first)}{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def figure(path: Path) -> str:
    """Picture of an SVG file, without its XML header."""
    text = path.read_text(encoding="utf-8")
    return f"<figure>{text[text.index('<svg') :]}</figure>"
