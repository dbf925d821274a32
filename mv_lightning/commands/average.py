"""`average`: one adapter whose weights are the average of several, such as the phases of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.adapter_averages import AVERAGE_OF, average_adapters
from mv_lightning.artifacts.adapter_location import adapter_folder
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
)
from mv_lightning.model.adapter_files import METADATA_FILE, read_metadata


@dataclass(frozen=True)
class AverageOptions:
    """Options of the command."""

    out: Path
    """A new folder, or an older average, which is replaced. It is an adapter, without a
    calibration."""

    def __post_init__(self) -> None:
        older = (self.out / METADATA_FILE).is_file() and AVERAGE_OF in read_metadata(self.out)
        if self.out.exists() and not older:
            raise ValueError(f"--out {self.out} exists and is not an average. Name a new folder")


def run(args: list[str]) -> None:
    """Write the average of adapters as an adapter.

    Args:
        args: The command line after `average`.

    Raises:
        ValueError: An adapter cannot be read, or they cannot be averaged.
    """
    parser = command_parser(
        "average",
        "Average the weights of adapters of a common origin, such as the phases of a run: one "
        "verifier, which costs what one of them costs.",
    )
    parser.add_argument(
        "adapters",
        nargs="+",
        metavar="ADAPTER",
        help="folder of an adapter or of a phase, or OWNER/NAME on the Hugging Face Hub",
    )
    add_options(parser, "average", AverageOptions)
    values = parse_options(parser, args)
    options = build(AverageOptions, values.average)
    folders = [adapter_folder(name) for name in values.adapters]
    deviation = average_adapters(folders, options.out)
    print(
        f"adapters averaged: {len(folders)}; the product of the averaged matrices differs by "
        f"{deviation:.1%} from the average of the products\n"
        f"not calibrated; predict with it: --model.init_from {options.out}\n"
        f"written to {options.out}"
    )
