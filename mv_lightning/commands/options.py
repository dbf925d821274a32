"""Options of commands: the same names in every command, from configuration files and the command
line.

`fit`, `validate`, `test` and `predict` read their options through LightningCLI. The other commands
declare theirs as dataclasses, whose field docstrings become the help: either under the names of
`fit` (`data.source`, `run.dir`) or in a group of the command (`export.out`), with the group left
out as a short form (`--out`). A configuration file of `fit` is accepted by every command: options
that a command does not read are passed over.
"""

from __future__ import annotations

import argparse
import dataclasses
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import mv_lightning.commands
from mv_lightning.formatting import flatten_settings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PROGRAM = "python -m mv_lightning"
SHARED_GROUPS = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "run",
    "predict",
    "ckpt_path",
    "weights_only",
)
"""The top level of a configuration file of `fit` or `predict`."""
Options = TypeVar("Options")


def local_path(path: str | Path) -> Path:
    """Return an absolute path, with `~` and symbolic links resolved."""
    return Path(path).expanduser().resolve()


def command_parser(command: str, description: str, epilog: str | None = None) -> ArgumentParser:
    """Return a parser without options but `--config`.

    Args:
        command: The name of the command.
        description: What it does, for its help.
        epilog: Text after the options.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"{PROGRAM} {command}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--config",
        "-c",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="YAML file of options; of several, later ones override, and the command line "
        "overrides all.",
    )
    return parser


def add_options(
    parser: ArgumentParser, group: str, options: type, short: Mapping[str, str] | None = None
) -> None:
    """Add an option for each field of a dataclass, with the field's docstring as its help.

    Args:
        parser: Where they are added.
        group: Dotted name before that of the field.
        options: The dataclass. A `bool` may be given without a value, a list takes several.
        short: Other names of some options, by field. Default: each field's own name with dashes.
    """
    from docstring_parser import parse_from_object

    fields = dataclasses.fields(options)
    if short is None:
        short = {field.name: f"--{field.name.replace('_', '-')}" for field in fields}
    help_texts = {param.arg_name: param.description for param in parse_from_object(options).params}
    hints = get_type_hints(options)
    for field in fields:
        names = [f"--{group}.{field.name}"]
        if field.name in short:
            names.append(short[field.name])
        required = _default(field) is dataclasses.MISSING
        parser.add_argument(
            *names,
            help=" ".join((help_texts[field.name] or "").split()),
            required=required,
            **({} if required else {"default": _default(field)}),
            **_type_arguments(hints[field.name]),
        )


def parse_options(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Read configuration files and the command line, which overrides them in any order.

    Args:
        parser: Has the command's options.
        args: The command line after the command.

    Returns:
        The values, nested by group.

    Raises:
        ValueError: A file or an option is wrong.
    """
    from jsonargparse import ArgumentError, Namespace

    files, others = _config_files(args)
    values = Namespace()
    for file in files:
        for name, value in _known_values(parser, file):
            values[name] = value
    try:
        return parser.parse_args([_normalised(arg) for arg in others], namespace=values)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise ValueError(f"{error}. See {parser.prog} --help") from error


def build(options: type[Options], values: Namespace) -> Options:
    """Return a dataclass of parsed values, in which paths are absolute.

    Args:
        options: The dataclass that was given to `add_options`.
        values: The values of its group.

    Raises:
        ValueError: The dataclass refuses them.
    """
    hints = get_type_hints(options)
    given = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        hint, value = hints[field.name], values[field.name]
        if get_origin(hint) is list and _is_path(get_args(hint)[0]):
            value = [local_path(path) for path in value]
        elif _is_path(hint) and value is not None:
            value = local_path(value)
        given[field.name] = value
    return options(**given)


def split_args(parser: ArgumentParser, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the options of a command from those that it hands on to another.

    Args:
        parser: Has the command's options. `--config` is handed on.
        args: The command line after the command.

    Returns:
        The command's own arguments, and all others.
    """
    actions = {
        name: action
        for action in parser._actions
        if action.dest != "config"
        for name in action.option_strings
    }
    own: list[str] = []
    others: list[str] = []
    remaining = list(args)
    while remaining:
        arg = remaining.pop(0)
        name = _normalised(arg).partition("=")[0]
        if name not in actions:
            others.append(arg)
            continue
        own.append(arg)
        takes_value = actions[name].nargs != 0 and "=" not in arg
        optional = actions[name].nargs == "?"
        if takes_value and remaining and not (optional and remaining[0].startswith("-")):
            own.append(remaining.pop(0))
        while actions[name].nargs == "+" and remaining and not remaining[0].startswith("-"):
            own.append(remaining.pop(0))
    return own, others


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return str(field.default) if isinstance(field.default, Path) else field.default


def _type_arguments(hint: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a type."""
    if hint is bool:
        return {"type": bool, "nargs": "?", "const": True}
    if get_origin(hint) is list:
        return {**_type_arguments(get_args(hint)[0]), "nargs": "+"}
    if _is_path(hint):
        return {"type": str if hint is Path else str | None, "metavar": "PATH"}
    return {"type": hint}


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)


def _config_files(args: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the configuration files of a command line, and its other arguments."""
    files: list[Path] = []
    others: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        name, equals, value = arg.partition("=")
        if name not in ("--config", "-c"):
            others.append(arg)
            continue
        path = value if equals else next(remaining, "")
        if not path:
            raise ValueError(f"{name} expects a file after it")
        files.append(local_path(path))
    return files, others


def _known_values(parser: ArgumentParser, file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the options of a configuration file that the parser has.

    Raises:
        ValueError: The file cannot be read, or has an unknown group or an unknown option of a
            command.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"--config {file}: expected options by name, got {content!r}")
    known = {action.dest for action in parser._actions}
    commands = [module.name for module in pkgutil.iter_modules(mv_lightning.commands.__path__)]
    for group, values in (content or {}).items():
        if group not in (*SHARED_GROUPS, *commands):
            raise ValueError(
                f"--config {file}: expected one of the groups {', '.join(SHARED_GROUPS)} or of a "
                f"command, got {group!r}"
            )
        for name, value in flatten_settings({group: values}).items():
            if name in known:
                yield name, value
            elif group in {dest.partition(".")[0] for dest in known} - set(SHARED_GROUPS):
                raise ValueError(f"--config {file}: there is no option {name!r}")


def _normalised(arg: str) -> str:
    """Spell an option as the parser does: dotted names with underscores, short ones with dashes."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    stem = name.removeprefix("--")
    stem = stem.replace("-", "_") if "." in stem else stem.replace("_", "-")
    return f"--{stem}{equals}{value}"
