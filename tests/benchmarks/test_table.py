"""The tables show what was measured and what was not; the documents contain them unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table
from mv_lightning.atomic import write_json


def cells(results: Path, start: str) -> list[str]:
    lines = table.speed(results).splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.split("|")[2:5]]


def test_a_ratio_has_its_range_and_its_target(tmp_path: Path) -> None:
    write_json(tmp_path / "train_trl.json", {"ratio": {"min": 2.04, "median": 3.0, "max": 4.25}})
    assert cells(tmp_path, "training, CPU, against TRL as in the report") == [
        "3.0x (2.0x to 4.2x)",
        "3.0x",
        "yes",
    ]
    write_json(tmp_path / "train_matmul.json", {"ratio": {"min": 0.4, "median": 0.49, "max": 0.6}})
    assert cells(tmp_path, "share of matrix products in a training step, CPU") == [
        "49% (40% to 60%)",
        "50%",
        "no",
    ]


def test_less_is_better_where_the_target_is_a_limit(tmp_path: Path) -> None:
    for peak, reached in ((13.96, "yes"), (14.0, "yes"), (14.2, "no")):
        write_json(tmp_path / "memory.json", {"figures": {"peak_gb": peak}})
        expected = [f"{peak:.1f} GB", "at most 14.0 GB", reached]
        assert cells(tmp_path, "memory of phase 1, estimated") == expected


def test_what_was_not_run_or_failed_is_shown_as_such(tmp_path: Path) -> None:
    gpu = tmp_path / "gpu"
    write_json(gpu / "phase1.json", {"failed": "return code -9", "returncode": -9})
    write_json(gpu / "unsloth.json", {"skipped": "not installed"})
    write_json(gpu / "package.json", {"predict_s": 80.0})
    assert cells(tmp_path, "memory of phase 1, GPU") == ["failed", "at most 14.0 GB", ""]
    assert cells(tmp_path, "training, GPU, against Unsloth as in the report")[0] == "not run"
    assert cells(tmp_path, "prediction, GPU, against generation")[0] == "not run"
    assert cells(tmp_path, "prediction, CPU, against generation") == ["not run", "10.0x", ""]


def test_the_figures_of_two_stages_are_compared(tmp_path: Path) -> None:
    gpu = tmp_path / "gpu"
    write_json(gpu / "generate.json", {"predict_s": 1_696.0})
    assert cells(tmp_path, "prediction, GPU, against generation")[0] == "not run"
    write_json(gpu / "package.json", {"failed": "took more than 200 s"})
    assert cells(tmp_path, "prediction, GPU, against generation")[0] == "failed"
    write_json(gpu / "package.json", {"predict_s": 80.0})
    assert cells(tmp_path, "prediction, GPU, against generation") == ["21.2x", "20.0x", "yes"]
    assert "| prediction of 10,000 rows, GPU | 80 s |" in table.summary(tmp_path)


def test_the_summary_has_only_what_was_measured(tmp_path: Path) -> None:
    assert len(table.summary(tmp_path).splitlines()) == 2
    write_json(tmp_path / "train_trl.json", {"ratio": {"min": 2.0, "median": 3.0, "max": 4.0}})
    write_json(
        tmp_path / "fault_injection_train.json",
        {"kills": 9, "identical": {"phase 1": True, "phase 2": False}},
    )
    stages = {"load_source, groups": {"wall_s": 1.64}}
    package = {"stages": stages, "peak_memory_mb": 479}
    write_json(tmp_path / "splits.json", {"rows": 1_000_000, "package": package})
    trl, faults, splits = table.summary(tmp_path).splitlines()[2:]
    assert "3.0x (2.0x to 4.0x)" in trl
    assert "killed 9 times" in faults and "| different |" in faults
    assert "1,000,000 rows | 1.6 s, 479 MB |" in splits


def test_the_documents_are_checked_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, document = tmp_path / "results", tmp_path / "docs" / "results.md"
    document.parent.mkdir()
    (tmp_path / "README.md").write_text("# Title\n", encoding="utf-8")
    monkeypatch.setattr(table, "TABLES", {"speed": table.speed})

    def call(*args: str) -> None:
        monkeypatch.setattr("sys.argv", ["table", *args])
        table.main(tmp_path, results)

    document.write_text("# Results\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="no document has the table speed"):
        call("--write")
    text = "# Results\n<!-- table: speed -->\n{}<!-- end -->\nthe end\n"
    document.write_text(text.format("old\n"), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"results\.md has outdated tables"):
        call("--check")
    call("--write")
    call("--check")
    assert document.read_text(encoding="utf-8") == text.format(table.speed(results))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Title\n"
    write_json(results / "predict_padded.json", {"ratio": {"min": 1, "median": 2, "max": 3}})
    with pytest.raises(SystemExit, match="outdated"):
        call("--check")


def test_an_unknown_marker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got the marker 'spede'"):
        table.filled("<!-- table: spede -->\n<!-- end -->", tmp_path)
