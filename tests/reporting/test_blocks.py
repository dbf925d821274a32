"""A report is one page that needs nothing beside it, whatever stands in its texts."""

from __future__ import annotations

from pathlib import Path

from mv_lightning.reporting.blocks import Picture, Section, Table, write_report


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
