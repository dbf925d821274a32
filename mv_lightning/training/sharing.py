"""What several runs in one process share: a loaded base model, tokenised rows, and summaries.

Loading and quantizing an 8B base takes longer than a short run trains. The base is frozen, so a run
leaves it as it was once its adapters are removed: a run with shared resources has the same result,
bit for bit, as one in a process of its own (`tests/training/test_sharing.py`).
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mv_lightning.model.adapters import detach
from mv_lightning.model.base import BaseSettings, load_base
from mv_lightning.training.memory import reset_peak_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mv_lightning.training.datamodule import VerdictDataModule
    from mv_lightning.training.module import VerdictModule


class SharedResources:
    """Lends a base model to one run after another.

    A run that ends with an error does not give it back; the next one loads it again.
    """

    def __init__(self, tokens: Path, summaries: Path) -> None:
        """Load nothing yet.

        Args:
            tokens: Folder of the tokenised rows of all runs.
            summaries: Folder of the summaries of their solutions.
        """
        self._tokens = tokens
        self._summaries = summaries
        self._model: PreTrainedModel | None = None
        self._loaded_as: tuple[BaseSettings, torch.dtype] | None = None

    def lend(self, module: VerdictModule, datamodule: VerdictDataModule) -> None:
        """Make a run use what is shared.

        Args:
            module: Its model, not configured yet.
            datamodule: Its data, not set up yet.
        """
        module.load_base = self._load_base
        datamodule.tokens = self._tokens
        if datamodule.summarizer is not None:
            datamodule.summarizer.folder = self._summaries

    def take_back(self, module: VerdictModule) -> None:
        """Take the base back from a run that ended well.

        Args:
            module: Its model, which has no adapters any longer.
        """
        if module.adapted is not None:
            self._model = detach(module.adapted)
            module.adapted = None

    def _load_base(
        self, settings: BaseSettings, dtype: torch.dtype, device: torch.device
    ) -> PreTrainedModel:
        """Return the base of the run before if it is the same, see `base.load_base`."""
        model, self._model = self._model, None
        if self._loaded_as != (settings, dtype):
            model = None
        gc.collect()  # the run before, whose objects refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if model is None:
            model = load_base(settings, dtype, device)
            self._loaded_as = (settings, dtype)
        if model.device != device:  # Lightning moves a model to the CPU at the end of a run
            model.to(device)
        reset_peak_memory(device)
        return model
