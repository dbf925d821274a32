"""The documents: links lead somewhere, commands and options exist, command lines parse."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mv_lightning.cli import COMMANDS, main
from mv_lightning.training import cli
from tests.conftest import ROOT

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
DOCUMENTS = [
    README,
    CONTRIBUTING,
    ROOT / "checkpoints" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
README_LINES = 140
GROUPS = "data|model|predict|run|trainer"
PROGRAM = "python -m mv_lightning "
TAKE_FIT_OPTIONS = ("ablate", "estimate", "learning-curve", "plan", "verify-resume")
"""Commands that read the options of `fit`, too."""
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def prose(document: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def inline_code(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document))


def anchors(document: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(document: Path) -> list[str]:
    """The lines of all shell blocks, continued ones joined, without comments."""
    joined = "\n".join(blocks(document, "bash")).replace("\\\n", " ")
    words = (shlex.split(line, comments=True) for line in joined.splitlines())
    return [shlex.join(line) for line in words if line]


def command_lines() -> list[str]:
    lines = [line for document in DOCUMENTS for line in shell_lines(document)]
    return sorted({line for line in lines if line.startswith(PROGRAM)})


@functools.cache
def help_text(command: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue()


@functools.cache
def option_names() -> frozenset[str]:
    """Every dotted option of `fit` and `predict`, and every group on the way to it."""
    names: set[str] = set()

    def collect(settings: dict[str, Any], path: str) -> None:
        for key, value in settings.items():
            names.add(path + key)
            if isinstance(value, dict):
                collect(value, f"{path}{key}.")

    for command in ("fit", "predict"):
        collect(cli.parse([command]), "")
    return frozenset(names)


@documents
def test_relative_links(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), target


@documents
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    for code in inline_code(document):
        if re.fullmatch(r"(benchmarks|configs|docs|mv_lightning|tests)/[\w./]+", code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"test_\w+", code) and f"data.splits.{code}" not in option_names():
            assert f"def {code}(" in sources, code


@documents
def test_dotted_options_exist(document: Path) -> None:
    shell = [word for line in shell_lines(document) for word in shlex.split(line)]
    for code in [*inline_code(document), *shell]:
        for name in re.findall(rf"(?<![\w./])(?:--)?((?:{GROUPS})\.[a-z_.0-9]+)(?![\w/])", code):
            if name.endswith(".yaml") or name.startswith(("trainer.callbacks.", "trainer.logger.")):
                continue
            assert name in option_names(), code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_described_and_has_help(command: str) -> None:
    assert f"`{command}`" in README.read_text()
    assert f"{PROGRAM}{command} " in (ROOT / "docs" / "commands.md").read_text()
    assert "--help" in help_text(command)


def test_commands_that_are_named_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"python -m mv_lightning ([a-z][\w-]*)", text):
            assert name in COMMANDS, document
        for name in re.findall(r"python -m (benchmarks\.\w+)", text):
            assert importlib.util.find_spec(name), document


class Parsed(BaseException):
    """Raised where a command would begin its work."""


@pytest.mark.parametrize("line", command_lines(), ids=lambda line: line.removeprefix(PROGRAM))
def test_command_lines_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # Settings that a run leaves are those of its phase file and more.
    line = re.sub(r"checkpoints/(phase\d)/config.yaml", r"configs/\1.yaml", line)
    # The folder of the average does not exist here; the adapter of a phase need not.
    line = line.replace("--model.init_from checkpoints/average", "--model.init_from previous")
    command, *args = shlex.split(line.removeprefix(PROGRAM))
    module = importlib.import_module(COMMANDS[command].module)
    if module is cli:
        cli.parse([command, *args])
        return
    if command == "phases":  # parses the options of all phases, then runs the first one
        monkeypatch.setattr(module, "run_child", stop_after(lambda args: None))
    elif command in TAKE_FIT_OPTIONS and "--compare" not in args:
        monkeypatch.setattr(cli, "parse_all", stop_after(cli.parse_all))
    else:
        monkeypatch.setattr(module, "parse_options", stop_after(module.parse_options))
    with pytest.raises(Parsed):
        module.run(args)


def stop_after(function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object) -> object:
        function(*args)
        raise Parsed

    return call


def test_quoted_messages_exist() -> None:
    """The first cells of the tables quote messages of the package; `...` stands for a value."""
    messages = package_texts()
    cells = re.findall(r"^\| (`.*?`) \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    quotes = [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]
    assert quotes
    for quote in quotes:
        pattern = ".*?".join(map(re.escape, quote.split("...")))
        assert any(re.search(pattern, message) for message in messages), quote


def package_texts() -> list[str]:
    """Every string of the package's code, with `<>` for the values in it."""
    texts = []
    for path in sorted((ROOT / "mv_lightning").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(constant_text(part) for part in node.values))
            elif isinstance(node, ast.Constant):
                texts.append(constant_text(node))
    return texts


def constant_text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "<>"


@documents
def test_make_targets_exist(document: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for code in [*inline_code(document), *shell_lines(document)]:
        if code.startswith("make "):
            named = [word for word in shlex.split(code)[1:] if "=" not in word]
            assert set(named) <= set(targets), code


@documents
def test_code_blocks_are_valid(document: Path) -> None:
    for block in blocks(document, "python"):
        ast.parse(block)
    for block in blocks(document, "yaml"):
        yaml.safe_load(block)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_module_has_its_line() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    table = text[text.index("### Modules") : text.index("## Conventions")]
    described = set(re.findall(r"`([\w/]+\.py)`", table))
    package = ROOT / "mv_lightning"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert described == {name for name in modules if not name.endswith("__init__.py")}
