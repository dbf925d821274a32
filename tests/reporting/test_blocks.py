"""A report is one page that needs nothing beside it, whatever stands in its texts."""

from __future__ import annotations

from pathlib import Path

from mv_lightning.reporting.blocks import (
    Code,
    Folded,
    Picture,
    Section,
    Table,
    html_page,
    markdown_page,
    write_report,
)


def test_both_reports_hold_every_block(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    blocks = [
        "1 < 2 & so on",
        Table(("", "rows"), [("a", "1"), ("long name", "20")]),
        Picture(picture, "a <curve>"),
    ]
    write_report(tmp_path, "Title of <b>", [Section("First", blocks)])
    assert (tmp_path / "report.md").read_text() == (
        "# Title of <b>\n\n## First\n\n1 < 2 & so on\n\n"
        "|           | rows |\n| --------- | ---: |\n| a         |    1 |\n| long name |   20 |\n\n"
        "![a <curve>](a.png)\n"
    )
    page = (tmp_path / "report.html").read_text()
    assert (
        "Title of &lt;b&gt;" in page
        and "1 &lt; 2 &amp; so on" in page
        and 'alt="a &lt;curve&gt;"' in page
    )
    assert "<td>long name</td><td>20</td>" in page
    assert "data:image/png;base64,iVBORw==" in page and "a.png" not in page and "http" not in page


def test_a_plain_table_has_names_left_and_numbers_right() -> None:
    table = Table(("", "rows"), [("phase 1", "1"), ("all", "1,200")])
    assert table.plain() == "          rows\n--------------\nphase 1      1\nall      1,200"


def test_nested_blocks_are_shown_in_both_formats() -> None:
    block = Folded("Row <7>", ["50 % of", Code("if a < b:\n    pass\n", "python")])
    sections = [Section("Mistakes", [block])]
    assert markdown_page("T", sections) == (
        "# T\n\n## Mistakes\n\n**Row <7>**\n\n50 % of\n\n```python\nif a < b:\n    pass\n```\n"
    )
    page = html_page("runs/a", sections)
    assert "<h1>runs/<wbr>a</h1>" in page and "<title>runs/a</title>" in page
    assert (
        "<details><summary>Row &lt;7&gt;</summary>\n<p>50&nbsp;% of</p>\n"
        "<pre>if a &lt; b:\n    pass</pre>\n</details>"
    ) in page
