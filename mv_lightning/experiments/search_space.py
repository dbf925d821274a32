"""The file that states what `tune` searches: options and the values that they may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mv_lightning.experiments.option_files import read_mapping

if TYPE_CHECKING:
    from optuna.trial import Trial

FIXED = (
    "run.dir",
    "run.fresh",
    "ckpt_path",
    "trainer.max_steps",
    "data.source",
    "data.phase",
    "data.splits",
)
"""Options, or groups of them, that must be the same in all trials: they are compared by the loss
on the same validation rows after the same steps."""
_CHOICE_TYPES = (str, bool, int, float, type(None))


@dataclass(frozen=True)
class Dimension:
    """The values that one option may take: a list of them, or a range."""

    choices: Sequence[Any] = ()
    """The values; empty for a range."""
    low: float = 0
    """Smallest value of a range."""
    high: float = 0
    """Largest value of a range. If both are integers, so are all values."""
    log: bool = False
    """Whether the range is searched on a logarithmic scale."""

    @property
    def ends(self) -> Sequence[Any]:
        """The values at the ends of the range, or all choices."""
        return self.choices or (self.low, self.high)

    @property
    def is_integer(self) -> bool:
        """Whether the range has integers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def contains(self, value: Any) -> bool:
        """Whether a value is one of those that the option may take.

        Args:
            value: Of the option.
        """
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and (not self.is_integer or value == int(value))

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial is to try.

        Args:
            trial: The trial.
            name: Of the option.
        """
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if self.is_integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, over which base configuration, and how soon trials are stopped."""

    title: str
    dimensions: Mapping[str, Dimension]
    """By the dotted name of the option."""
    base: Sequence[Path] = ()
    """Configuration files of `fit`; later ones override."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What all trials set beyond the base: dotted names and values."""
    first_rung: int | None = None
    """Optimizer steps after which a trial may be stopped; None for those of the first
    validation."""
    reduction: int = 3
    """Of the trials that reach a rung, one in this many goes on, to this many times its steps."""

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return what a trial is to try, by option.

        Args:
            trial: The trial.
        """
        return {name: dim.suggest(trial, name) for name, dim in self.dimensions.items()}

    def corners(self) -> list[dict[str, Any]]:
        """Return settings in which every end of a range and every choice occurs."""
        count = max(len(dim.ends) for dim in self.dimensions.values())
        corners = []
        for place in range(count):
            corners.append(
                {name: dim.ends[place % len(dim.ends)] for name, dim in self.dimensions.items()}
            )
        return corners

    def first_trial(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the first trial: the defaults, which are those of the report.

        Args:
            defaults: All options of `fit` with their defaults, nested.

        Raises:
            ValueError: A default is not in the space.
        """
        first = {}
        for name, dimension in self.dimensions.items():
            value: Any = defaults
            for part in name.split("."):
                value = value[part]
            if not dimension.contains(value):
                raise ValueError(
                    f"the first trial has the settings of the report, but its {name}={value!r} is "
                    f"not among {list(dimension.ends)}. Add it to the space"
                )
            first[name] = value
        return first


def read_space(file: Path) -> SearchSpace:
    """Read a search space.

    It is a YAML mapping of `space` (options and what they may be: `{choices: [...]}` or `{low: ...,
    high: ..., log: true}`), `title`, `base` (configuration files, relative to this file), `options`
    (set in all trials), and `pruning` (`first_rung`, `reduction`). Options have dotted names.

    Args:
        file: The file.

    Raises:
        ValueError: It cannot be read, or is not such a mapping.
    """
    known = ("title", "base", "options", "space", "pruning")
    content = read_mapping(file, "the search space", known)
    pruning = _mapping(file, "pruning", content.get("pruning", {}), ("first_rung", "reduction"))
    options, base = content.get("options", {}), content.get("base", [])
    if not isinstance(options, dict) or not isinstance(base, list):
        raise ValueError(
            f"the search space {file}: expected options to be a mapping and base a list, got "
            f"{options!r} and {base!r}"
        )
    space = content.get("space")
    if not isinstance(space, dict) or not space:
        raise ValueError(f"the search space {file}: expected options under space, got {space!r}")
    dimensions = {name: _dimension(file, name, value) for name, value in space.items()}
    _check_names(file, dimensions, options)
    first_rung, reduction = pruning.get("first_rung"), pruning.get("reduction", 3)
    if (first_rung is not None and first_rung < 1) or reduction < 2:
        raise ValueError(
            f"the search space {file}: expected first_rung of at least 1 and reduction of at least "
            f"2, got {first_rung} and {reduction}"
        )
    return SearchSpace(
        title=str(content.get("title", file.stem)),
        dimensions=dimensions,
        base=[(file.parent / path).resolve() for path in base],
        options=options,
        first_rung=first_rung,
        reduction=reduction,
    )


def _mapping(file: Path, name: str, value: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not value.keys() <= set(known):
        raise ValueError(
            f"the search space {file}: expected {name} to be a mapping of {', '.join(known)}, got "
            f"{value!r}"
        )
    return value


def _dimension(file: Path, name: str, value: Any) -> Dimension:
    content = _mapping(file, name, value, ("choices", "low", "high", "log"))
    if content.keys() == {"choices"}:
        choices = content["choices"]
        is_list = isinstance(choices, list) and len(choices) > 1
        if is_list and all(isinstance(choice, _CHOICE_TYPES) for choice in choices):
            return Dimension(choices=tuple(choices))
    elif content.keys() - {"log"} == {"low", "high"}:
        low, high, log = content["low"], content["high"], content.get("log", False)
        numbers = [
            isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)
        ]
        if all(numbers) and isinstance(log, bool) and low < high and (low > 0 or not log):
            return Dimension(low=low, high=high, log=log)
    raise ValueError(
        f"the search space {file}: expected {name} to have two or more choices of texts, numbers "
        "or booleans, or numbers low and high (low < high; above 0 with log: true), got "
        f"{value!r}. YAML reads 1.0e-5 as a number, but 1e-5 as a text"
    )


def _check_names(
    file: Path, dimensions: Mapping[str, Dimension], options: Mapping[str, Any]
) -> None:
    for name in dimensions:
        if name in options:
            raise ValueError(
                f"the search space {file} sets {name} in options and space. Remove one"
            )
        if any(name == fixed or name.startswith(f"{fixed}.") for fixed in FIXED):
            raise ValueError(
                f"the search space {file}: {name} must be the same in all trials, which are "
                "compared on the same validation rows after the same steps. Set it under options"
            )
