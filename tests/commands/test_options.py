"""Options have one set of names; configuration files of `fit` are accepted by every command."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
    split_args,
)
from tests.conftest import ROOT


@dataclass(frozen=True)
class Run:
    dir: Path = Path("checkpoints")
    """The run's folder."""


@dataclass(frozen=True)
class Own:
    out: Path
    """A new
    folder."""
    max_n: int | None = None
    """A limit."""
    merged: bool = False
    """A switch."""
    fit_weights: list[Path] = field(default_factory=list)
    """Files."""


def parser():
    parser = command_parser("export", "Exports.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="files")
    add_options(parser, "run", Run, short={})
    add_options(parser, "export", Own)
    return parser


def own(*args: str) -> Own:
    return build(Own, parse_options(parser(), args).export)


def config(folder: Path, text: str) -> str:
    file = folder / f"{len(list(folder.iterdir()))}.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    "args",
    [
        ["--export.out", "x", "--export.max_n", "3", "--export.merged", "true"],
        ["--out", "x", "--max-n", "3", "--merged"],
        ["--out=x", "--max_n=3", "--merged=true"],
        ["--export.max-n", "3", "--merged", "true", "--out", "x"],
    ],
)
def test_short_forms_dashes_and_underscores(args: list[str]) -> None:
    assert own(*args) == Own(out=Path.cwd() / "x", max_n=3, merged=True)


def test_a_list_takes_several_values() -> None:
    given = own("--fit-weights", "a", "b", "--out", "x")
    assert given.fit_weights == [Path.cwd() / "a", Path.cwd() / "b"]


def test_later_files_override_and_the_command_line_overrides_all(tmp_path: Path) -> None:
    first = config(tmp_path, "export: {out: a, max_n: 1, fit_weights: [p, q]}")
    second = config(tmp_path, "export: {max_n: 2}")
    files = ["--config", first, f"--config={second}"]
    assert own(*files).max_n == 2 and own(*files).out == Path.cwd() / "a"
    assert own("--max-n", "3", *files).max_n == own(*files, "--max-n", "3").max_n == 3
    assert own(*files).fit_weights == [Path.cwd() / "p", Path.cwd() / "q"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_configuration_files_of_fit_are_accepted(path: Path) -> None:
    assert own("--config", str(path), "--out", "x").out == Path.cwd() / "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dat: {source: x}", "got 'dat'"),
        ("export: {max_m: 3}", "no option 'export.max_m'"),
        ("export: {max_n: many}", "export.max_n"),
        ("[1, 2]", "expected options by name"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        own("--config", config(tmp_path, text), "--out", "x")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "x", "--max-m", "3"], "--max-m"),
        (["--out", "x", "--max", "3"], "--max"),
        (["--out", "x", "--max-n", "few"], "export.max_n"),
        ([], "export.out"),
        (["--out", "x", "--config"], "--config expects a file"),
        (["--out", "x", "--config", "none.yaml"], "none.yaml cannot be read"),
    ],
)
def test_a_wrong_option_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        own(*args)


def test_paths_are_made_absolute_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert own("--out", "~/x").out == own("--out", "x").out == tmp_path / "x"
    assert own("--out", "link/x").out == tmp_path / "real" / "x"
    assert local_path("~/link") == tmp_path / "real"
    stored = config(tmp_path, "export: {out: ~/x}\nrun: {dir: ~/runs}")
    values: Any = parse_options(parser(), ["--config", stored])
    assert build(Own, values.export).out == tmp_path / "x"
    assert build(Run, values.run).dir == tmp_path / "runs"
    assert build(Run, parse_options(parser(), ["--out", "x"]).run).dir == tmp_path / "checkpoints"


def test_the_help_is_made_of_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_options(parser(), ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "--export.out PATH, --out PATH A new folder. (required" in printed
    assert "--run.dir PATH The run's folder." in printed


def test_options_of_another_command_are_handed_on() -> None:
    args = ["--merged", "--data.phase", "2", "--out=x", "--config", "c.yaml", "--max-n", "3", "-x"]
    own_args, others = split_args(parser(), args)
    assert own_args == ["--merged", "--out=x", "--max-n", "3"]
    assert others == ["--data.phase", "2", "--config", "c.yaml", "-x"]
    assert split_args(parser(), ["--merged", "true", "--run.keep", "1"]) == (
        ["--merged", "true"],
        ["--run.keep", "1"],
    )
    several = ["--fit-weights", "a", "b", "--x", "c", "--fit-weights=d", "e"]
    own_args, others = split_args(parser(), several)
    assert own_args == ["--fit-weights", "a", "b", "--fit-weights=d", "e"]
    assert others == ["--x", "c"]
