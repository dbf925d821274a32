"""YAML files that state options of `fit`, and options as a command line spells them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_mapping(file: Path, title: str, known: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file that is a mapping.

    Args:
        file: The file.
        title: What it is, for messages.
        known: The names that it may have.

    Raises:
        ValueError: It cannot be read, or is not such a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{title} {file} cannot be read: {error}") from error
    if isinstance(content, dict) and content.keys() <= set(known):
        return content
    got = sorted(content.keys() - set(known)) if isinstance(content, dict) else content
    raise ValueError(
        f"{title} {file}: expected a mapping of {', '.join(known)}, got {got!r}. Correct the names"
    )


def shared_args(base: Sequence[Path], options: Mapping[str, Any], args: Sequence[str]) -> list[str]:
    """Return the arguments of `fit` that all runs of an experiment or a search have.

    Args:
        base: Configuration files.
        options: What the file of the experiment sets beyond them.
        args: Of the command line, which override both.
    """
    configs: list[str] = []
    for path in base:
        configs += ["--config", str(path)]
    return [*configs, *option_args(options), *args]


def value_text(value: Any) -> str:
    """Return a value as a configuration file spells it.

    Args:
        value: Of an option.
    """
    return value if isinstance(value, str) else json.dumps(value)


def option_args(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of a command line.

    Args:
        options: Dotted names and values.
    """
    return [f"--{name}={value_text(value)}" for name, value in options.items()]
