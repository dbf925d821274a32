"""`export`: a phase's verifier as a folder for plain peft and transformers, or vLLM, without this
package.

The folder is loaded back without this package's model code and compared with the verifier on
held-out rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import read_phase
from mv_lightning.atomic import atomic_folder
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
)
from mv_lightning.exporting.chat_template import check_template
from mv_lightning.exporting.comparison import compare, comparison_table, held_out_rows
from mv_lightning.exporting.formats import Format, plain_log_odds, write_export
from mv_lightning.exporting.hub import check_login, push
from mv_lightning.exporting.model_card import model_card
from mv_lightning.model.adapter_files import NO_SUMMARIZER, read_metadata
from mv_lightning.training.settings import RunSettings
from mv_lightning.versioning import write_versioned_json

EXPORT_FILE = "export.json"


@dataclass(frozen=True)
class ExportOptions:
    """Options of the command."""

    out: Path
    """A new folder, or an older export, which is replaced."""
    format: Format = "adapter"
    """`adapter`: a PEFT folder; `merged`: a causal model in bf16 with the adapter merged into it;
    `reward-model`: the same as a sequence classifier with one label."""
    source: str | None = None
    """Rows to compare on; default: the phase's held-out test set, or its validation rows."""
    rows: int = 500
    """Maximum number of rows to compare on."""
    max_flips: float = 0.02
    """Share of verdicts that may differ, 0 to 1; above it nothing is written."""
    push: str | None = None
    """Upload the export to `OWNER/NAME` on the Hugging Face Hub."""
    private: bool = False
    """Make the repository of --push private if it does not exist yet."""

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 <= self.max_flips <= 1:
            raise ValueError(
                "expected at least one row to compare on and a share of flips from 0 to 1, got "
                f"--rows {self.rows} --max-flips {self.max_flips}"
            )
        if self.out.exists() and not (self.out / EXPORT_FILE).is_file():
            raise ValueError(
                f"--out {self.out} exists and is not an export (it has no {EXPORT_FILE}). Name a "
                "new folder"
            )


@dataclass(frozen=True)
class RunOptions:
    """Where the run is, for a phase that is named by its number."""

    dir: Path = Path(RunSettings.dir)
    """The run's folder."""


@dataclass(frozen=True)
class PhaseOptions:
    """Which phase."""

    phase: int | None = None
    """Number of the phase in run.dir, in place of PHASE_FOLDER."""


def run(args: list[str]) -> None:
    """Write the folder, load it back and compare; it is kept if few enough verdicts differ.

    Args:
        args: The command line after `export`.

    Raises:
        ValueError: The phase is not finished, rows cannot be read, or too many verdicts differ.
    """
    parser = command_parser(
        "export",
        "Write a phase's adapter, the base model with the adapter merged into it, or a reward "
        "model, for use without this package; load it back and compare the verdicts on held-out "
        "rows.",
    )
    parser.add_argument(
        "phase_folder",
        nargs="?",
        metavar="PHASE_FOLDER",
        help="Folder of a finished phase, such as checkpoints/phase3",
    )
    add_options(parser, "export", ExportOptions)
    add_options(parser, "run", RunOptions, short={})
    add_options(parser, "data", PhaseOptions, short={})
    values = parse_options(parser, args)
    options = build(ExportOptions, values.export)
    if values.phase_folder is not None:
        phase_folder = local_path(values.phase_folder)
    elif values.data.phase is not None:
        phase_folder = RunFolder(build(RunOptions, values.run).dir).phase(values.data.phase).path
    else:
        raise ValueError("expected PHASE_FOLDER, or the number of a phase as --data.phase")
    export(phase_folder, options)


def export(phase_folder: Path, options: ExportOptions) -> None:
    """Export a phase.

    Args:
        phase_folder: Folder of a finished phase.
        options: Where to, in what form, and how it is compared.

    Raises:
        ValueError: As for the command.
    """
    from mv_lightning.training.console import silence_libraries
    from mv_lightning.verifier import Verifier

    silence_libraries()
    if options.push is not None:
        check_login(options.push)
    phase = read_phase(phase_folder)
    _check_formats(phase.folder.adapter)
    held_out = held_out_rows(phase, options.source, options.rows)
    with atomic_folder(options.out) as folder:
        write_export(options.format, phase.folder.adapter, folder)
        precision = phase.settings["trainer"]["precision"]
        verifier = Verifier.load(phase.folder.path, precision=precision)
        encoded, calibration = verifier.encode(held_out.rows), verifier.calibration
        if options.format == "reward-model":
            check_template(folder, held_out.rows, encoded)
        before_N = verifier.raw_log_odds(encoded)
        del verifier  # one model at a time in memory
        after_N = plain_log_odds(options.format, folder, encoded)
        comparison = {
            "format": options.format,
            "rows_from": held_out.description,
            **compare(calibration, before_N, after_N, held_out.labels_N),
        }
        if comparison["flips"] > options.max_flips * len(held_out.rows):
            raise ValueError(
                f"{comparison['flips']} of {len(held_out.rows):,} verdicts differ in the export, "
                f"more than --max-flips {options.max_flips} allows. The log-odds differ by "
                f"{comparison['log_odds_change']['mean']:.3f} on average. Nothing was written. "
                "Train in bf16-mixed, or allow more flips"
            )
        write_versioned_json(folder / EXPORT_FILE, comparison)
        name = options.push or options.out.name
        card = model_card(phase, folder, comparison, name)
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(comparison_table(comparison).markdown())
    print(f"\ncompared on {len(held_out.rows):,} rows ({held_out.description})")
    print(f"written to {options.out}")
    if options.push is not None:
        print(f"pushed to {push(options.out, options.push, options.private)}")


def _check_formats(adapter: Path) -> None:
    """Refuse an adapter that no format can hold."""
    metadata = read_metadata(adapter)
    if metadata["summarizer"] != NO_SUMMARIZER:
        raise ValueError(
            f"{adapter} was trained on summaries (data.summarize), which an export "
            "cannot write. Export a phase that was trained on whole solutions, or use the Verifier "
            "class"
        )
    if metadata["head"] == "linear":
        raise ValueError(
            f"{adapter} was trained with model.head=linear, which the formats of this "
            "command do not have: they read the verdict from two tokens of the base's own head. "
            "Export a phase that was trained with model.head=verdict, or use the Verifier class"
        )
