"""What the files beside the data of a Hub dataset say about its columns.

Parquet and Arrow files that `datasets` wrote name the classes of a `ClassLabel` themselves. CSV and
JSON Lines hold only class numbers, and the names are in the card (README.md) or dataset_info.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CARD = "README.md"
INFO = "dataset_info.json"


def declared_classes(folder: Path | None) -> dict[str, list[str]]:
    """Return the names of the classes that a folder declares, in the order of their numbers.

    Args:
        folder: The folder of a dataset; None for a source without one.

    Returns:
        The names by column; empty where the folder declares none.
    """
    classes: dict[str, list[str]] = {}
    if folder is not None:
        for features in _features(folder):
            classes = {**features, **classes}
    return classes


def _features(folder: Path) -> Iterator[dict[str, list[str]]]:
    """The class names by column: one dict for each configuration in the card, one for the info."""
    import yaml

    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        features = info["features"].items()
        yield {name: value["names"] for name, value in features if "names" in value}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        if not text.startswith("---"):
            return
        infos = yaml.safe_load(text.split("---", 2)[1])["dataset_info"]
        for info in infos if isinstance(infos, list) else [infos]:
            yield _card_classes(info["features"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return


def _card_classes(features: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The class names by column of one configuration."""
    classes = {}
    for feature in features:
        kind = feature.get("dtype")
        if isinstance(kind, Mapping) and "class_label" in kind:
            names = kind["class_label"]["names"]
            if isinstance(names, Mapping):  # number -> name
                names = [names[number] for number in sorted(names, key=int)]
            classes[feature["name"]] = [str(name) for name in names]
    return classes
