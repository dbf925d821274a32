"""Reports as a Markdown file and as one self-contained HTML file, from the same blocks."""

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
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #8885; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .4rem; box-sizing: border-box; }
""".strip()


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is flush left, the others flush right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it with aligned columns: legible as it stands, in a terminal too."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        rule = [("-" * width if place == 0 else "-" * (width - 1) + ":") for place, width in enumerate(widths)]
        lines = [
            [cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(pairs)]
            for pairs in (list(zip(line, widths, strict=True)) for line in (self.head, rule, *self.rows))
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
class Section:
    """A heading and what stands below it; a string is a paragraph."""

    title: str
    blocks: Sequence[str | Table | Picture]


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `report.md` and `report.html`.

    Args:
        folder: Where to; the pictures lie there already.
        title: Heading of the whole.
        sections: In order.
    """
    markdown, page = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        markdown.append(f"## {section.title}")
        page.append(f"<h2>{html.escape(section.title)}</h2>")
        for block in section.blocks:
            markdown.append(block if isinstance(block, str) else block.markdown())
            page.append(f"<p>{html.escape(block)}</p>" if isinstance(block, str) else block.html())
    with atomic_file(folder / "report.md") as draft:
        draft.write_text("\n\n".join(markdown) + "\n", encoding="utf-8")
    head = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n"
    )
    with atomic_file(folder / "report.html") as draft:
        draft.write_text(head + "\n".join(page) + "\n</html>\n", encoding="utf-8")
