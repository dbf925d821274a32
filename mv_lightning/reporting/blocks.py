"""Pages as Markdown and as one self-contained HTML file, from the same blocks; every text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.atomic import atomic_file

# Readable on a phone and in the dark; figures keep their white ground.
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem 1.2rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.table { overflow-x: auto; } .table + .table { margin-top: 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #8885; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.5 ui-monospace, monospace; background: #8881;
  padding: .6rem .8rem; border-radius: 6px; margin: .3rem 0 1rem; }
details { margin: .5rem 0; border-left: 3px solid #8885; padding-left: .8rem; } details p { margin: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .4rem; box-sizing: border-box; }
@media (min-width: 44rem) { details p:has(img) { display: inline-block; width: 49%; vertical-align: top; } }
""".strip()


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is flush left, the others flush right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it with aligned columns: legible as it stands, in a terminal too."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        rule = [
            ("-" * width if place == 0 else "-" * (width - 1) + ":")
            for place, width in enumerate(widths)
        ]
        lines = [
            [
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(pairs)
            ]
            for pairs in (
                list(zip(line, widths, strict=True)) for line in (self.head, rule, *self.rows)
            )
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def html(self) -> str:
        """Return it as an element that scrolls sideways where it is too wide."""
        head, *rows = (
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
            for tag, line in (("th", self.head), *(("td", row) for row in self.rows))
        )
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        return f'<div class="table"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


@dataclass(frozen=True)
class Picture:
    """A PNG beside the report."""

    file: Path
    shows: str
    """What is to be seen, for those who cannot."""

    def markdown(self) -> str:
        """Return a link to the file."""
        return f"![{self.shows}]({self.file.name})"

    def html(self) -> str:
        """Return an element that holds the file."""
        content = base64.b64encode(self.file.read_bytes()).decode()
        return f'<p><img alt="{html.escape(self.shows)}" src="data:image/png;base64,{content}"></p>'


@dataclass(frozen=True)
class Code:
    """Text that keeps its lines: code, or the words of others."""

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
    """Blocks that are shown when their title is clicked."""

    title: str
    blocks: Sequence[Block]

    def markdown(self) -> str:
        """Return title and blocks, unfolded: Markdown has no more."""
        return "\n\n".join([f"**{self.title}**", *map(_markdown, self.blocks)])

    def html(self) -> str:
        """Return an element that needs no script."""
        blocks = "\n".join(map(_html, self.blocks))
        return f"<details><summary>{html.escape(self.title)}</summary>\n{blocks}\n</details>"


Block = str | Table | Picture | Code | Folded
"""A string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `report.md` and `report.html`.

    Args:
        folder: Where to; the pictures lie there already.
        title: Heading of the whole.
        sections: In order.
    """
    for name, page in (
        ("report.md", markdown_page(title, sections)),
        ("report.html", html_page(title, sections)),
    ):
        with atomic_file(folder / name) as tmp_path:
            tmp_path.write_text(page, encoding="utf-8")


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """Return a page of Markdown.

    Args:
        title: Heading of the whole.
        sections: In order; their pictures lie beside the page.
    """
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *map(_markdown, section.blocks)]
    return "\n\n".join(parts) + "\n"


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return a page of HTML that holds its style and its pictures.

    Args:
        title: Heading of the whole.
        sections: In order.
    """
    # A path in the title may be broken after its slashes.
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
    return f"<p>{html.escape(block).replace(' %', '&nbsp;%')}</p>"  # a number and its unit stay in one line
