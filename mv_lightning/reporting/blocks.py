"""Blocks of a page, written as Markdown or as one self-contained HTML file.

In HTML all text is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.atomic import atomic_file

# Readable on a phone and in dark mode; figures keep their white background.
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 0 auto;
  padding: 1rem 1.2rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.table { overflow-x: auto; } .table + .table { margin-top: 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #8885;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.5 ui-monospace, monospace;
  background: #8881; padding: .6rem .8rem; border-radius: 6px; margin: .3rem 0 1rem; }
details { margin: .5rem 0; border-left: 3px solid #8885; padding-left: .8rem; }
details p { margin: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .4rem;
  box-sizing: border-box; }
@media (min-width: 44rem) {
  details p:has(img) { display: inline-block; width: 49%; vertical-align: top; }
}
""".strip()


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is aligned left, the others right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def plain(self) -> str:
        """Return it for a terminal: the first column aligned left, the others right, with a line
        below the head."""
        lines = []
        for first, *others in (self.head, *self.rows):
            cells = map(str.rjust, others, self._widths[1:])
            lines.append("  ".join([first.ljust(self._widths[0]), *cells]))
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return it as Markdown with aligned columns, which is legible in a terminal too."""
        rule = ["-" * (width - 1) + ":" for width in self._widths]
        rule[0] = "-" * self._widths[0]
        return "\n".join(self._markdown_row(cells) for cells in (self.head, rule, *self.rows))

    def html(self) -> str:
        """Return an element that scrolls sideways where it is too wide."""
        lines = [_html_row("th", self.head), *(_html_row("td", cells) for cells in self.rows)]
        return '<div class="table"><table>\n' + "\n".join(lines) + "\n</table></div>"

    @property
    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

    def _markdown_row(self, cells: Sequence[str]) -> str:
        aligned = list(map(str.rjust, cells, self._widths))
        aligned[0] = cells[0].ljust(self._widths[0])
        return "| " + " | ".join(aligned) + " |"


@dataclass(frozen=True)
class Picture:
    """A PNG file in the folder of the page."""

    file: Path
    alt: str
    """What it shows, for those who cannot see it."""

    def markdown(self) -> str:
        """Return a link to the file."""
        return f"![{self.alt}]({self.file.name})"

    def html(self) -> str:
        """Return an element that contains the file."""
        content = base64.b64encode(self.file.read_bytes()).decode()
        return f'<p><img alt="{html.escape(self.alt)}" src="data:image/png;base64,{content}"></p>'


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as code or quoted rows."""

    text: str
    language: str = ""

    def markdown(self) -> str:
        """Return it as a fenced block."""
        return f"```{self.language}\n{self.text.rstrip()}\n```"

    def html(self) -> str:
        """Return an element that wraps long lines."""
        return f"<pre>{html.escape(self.text.rstrip())}</pre>"


@dataclass(frozen=True)
class Folded:
    """Blocks that are hidden until their title is clicked."""

    title: str
    blocks: Sequence[Block]

    def markdown(self) -> str:
        """Return title and blocks, all visible: Markdown cannot fold."""
        return "\n\n".join([f"**{self.title}**", *map(_markdown, self.blocks)])

    def html(self) -> str:
        """Return an element that needs no script."""
        blocks = "\n".join(map(_html, self.blocks))
        return f"<details><summary>{html.escape(self.title)}</summary>\n{blocks}\n</details>"


Block = str | Table | Picture | Code | Folded
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `report.md` and `report.html`.

    Args:
        folder: The folder for both. It contains the pictures already.
        title: Heading of the page.
        sections: In order.
    """
    pages = {
        "report.md": markdown_page(title, sections),
        "report.html": html_page(title, sections),
    }
    for name, page in pages.items():
        with atomic_file(folder / name) as tmp_path:
            tmp_path.write_text(page, encoding="utf-8")


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """Return a page of Markdown.

    Args:
        title: Heading of the page.
        sections: In order. Their pictures are expected in the folder of the page.
    """
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *map(_markdown, section.blocks)]
    return "\n\n".join(parts) + "\n"


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return a page of HTML that contains its style and its pictures.

    Args:
        title: Heading of the page.
        sections: In order.
    """
    # A path in the title may break after its slashes.
    parts = [f"<h1>{html.escape(title).replace('/', '/<wbr>')}</h1>"]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", *map(_html, section.blocks)]
    head = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n"
    )
    return head + "\n".join(parts) + "\n</html>\n"


def _markdown(block: Block) -> str:
    return block if isinstance(block, str) else block.markdown()


def _html(block: Block) -> str:
    if not isinstance(block, str):
        return block.html()
    # A number and its unit stay in one line.
    return f"<p>{html.escape(block).replace(' %', '&nbsp;%')}</p>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
