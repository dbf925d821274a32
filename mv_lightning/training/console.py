"""What libraries print while a command runs, reduced to what its user can act on."""

from __future__ import annotations

import logging
import sys
import warnings


def silence_libraries() -> None:
    """Hide warnings and advertisements of libraries that a user of this program cannot act on."""
    messages = (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*LightningCLI's args parameter.*",
        ".*is not supported by the model summary.*",
        ".*sync_dist=True.*",  # the evaluator gathers the rows itself
        ".*isinstance.treespec, LeafSpec.*",
        ".*gradient_checkpointing.*",  # renamed in transformers 6
    )
    for message in messages:
        warnings.filterwarnings("ignore", message=message)
    # It misses a kernel that model/quantization.py switches off.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_useful)
    if not sys.stdout.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def _is_useful(record: logging.LogRecord) -> bool:
    """Drop Lightning's lists of accelerators that are not there, and its advertisements."""
    message = record.getMessage()
    return not any(
        word in message
        for word in ("TPU available", "HPU available", "litlogger", "LitLogger", "💡")
    )
