"""The trained verifier in a program of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.artifacts.layout import ADAPTER_FOLDER
from mv_lightning.data.batching import EVAL_TOKENS, PackedRows, evaluation_micro_batches
from mv_lightning.data.encoding import encode_rows, verdict_token_ids
from mv_lightning.data.prompts import Prompt, prompt_from_metadata
from mv_lightning.data.rows import Rows, text_columns
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model import adapter_files, adapters, verdict
from mv_lightning.model.base import BaseSettings, load_base, load_tokenizer
from mv_lightning.model.fingerprints import base_fingerprint, tokenizer_fingerprint
from mv_lightning.model.precision import PRECISION, compute_dtype
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Verifier:
    """A base model with a trained adapter, asked as it was trained; made by `load`.

    It says of the same rows what `predict` says of them, to the last bit on one machine: both read the verdict from
    batches of the same composition. Scored among other rows, a row's log-odds may differ in their last bits.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    max_length: int
    """Most tokens of a row; a longer solution loses its middle."""
    calibration: Calibration
    """Log-odds above its threshold are a verdict of True; `dataclasses.replace` puts another one in its place."""
    dtype: torch.dtype
    """Of the products."""
    eval_tokens: int
    """Most tokens of a batch."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        base: str | None = None,
        device: str | torch.device | None = None,
        precision: str = PRECISION,
        eval_tokens: int = EVAL_TOKENS,
    ) -> Verifier:
        """Load what a phase has left.

        Args:
            folder: A finished phase's folder (its final adapter is taken), or any adapter's folder in it.
            base: Hub id or folder of the base model, if it is not where it was in training.
            device: Where to compute; default: the first GPU, without one the CPU.
            precision: `bf16-mixed`, `16-mixed` (cards without bf16) or `32-true`.
            eval_tokens: Most tokens of a batch; fewer take less memory.

        Raises:
            ValueError: There is no adapter, or its base cannot be loaded or is another one than it was trained on.
        """
        folder = Path(folder)
        folder = folder / ADAPTER_FOLDER if (folder / ADAPTER_FOLDER).is_dir() else folder
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype, calibration = compute_dtype(precision), load_calibration(folder)
        card = adapter_files.read_metadata(folder)
        settings = BaseSettings(
            name=base or card["base"]["name"],
            quantization=card["base"]["quantization"],
            gradient_checkpointing=False,
        )
        prompt = prompt_from_metadata(card["prompt"])
        tokenizer = load_tokenizer(settings)
        loaded = load_base(settings, dtype, device)
        here = {
            "base": {"name": settings.name, "fingerprint": base_fingerprint(loaded)},
            "tokenizer": {"name": settings.name, "fingerprint": tokenizer_fingerprint(tokenizer)},
            "prompt": {"name": prompt.name, "fingerprint": prompt.fingerprint},
        }
        adapter_files.check_compatible(card, here, f"the adapter in {folder}")
        # LoftQ would only make other first values for the weights that are loaded next.
        model = adapters.attach(loaded, adapters.LoraSettings(**{**card["lora"], "loftq": False}))
        adapter_files.load(model, folder)
        return cls(
            model.eval(), tokenizer, prompt, card["max_length"], calibration, dtype, eval_tokens
        )

    def score(self, rows: Rows) -> np.ndarray:
        """Return the calibrated probability that each answer is correct: float64 [N].

        Args:
            rows: N rows with `question`, `answer` and `solution`: dicts (a list of them, a `datasets.Dataset`), or a
                table by column (a dict of lists, a DataFrame). Labels and other columns are not looked at.

        Raises:
            ValueError: A column is missing, a question is empty, or a row cannot be cut to `max_length`.
        """
        return torch.from_numpy(self.log_odds(rows)).sigmoid().numpy()

    def log_odds(self, rows: Rows) -> np.ndarray:
        """Return the calibrated log P(True) - log P(False) of each row: float64 [N].

        Args:
            rows: As for `score`.

        Raises:
            ValueError: As for `score`.
        """
        return self.calibration.apply(self.raw_log_odds(self.encode(rows)))

    def encode(self, rows: Rows) -> EncodedRows:
        """Return the token ids that the model is asked with, numbered from 0.

        Args:
            rows: As for `score`.

        Raises:
            ValueError: As for `score`.
        """
        columns = text_columns(rows)
        rows_N = np.arange(len(columns["question"]))
        return encode_rows(columns, None, rows_N, self.prompt, self.tokenizer, self.max_length)

    def raw_log_odds(self, encoded: EncodedRows) -> np.ndarray:
        """Return what the model itself says, before calibration: log P(True) - log P(False), float64 [N].

        Args:
            encoded: N rows, in any order.

        Raises:
            ValueError: The model gives something that is not a number.
        """
        odds_N = np.zeros(len(encoded))
        if not len(encoded):
            return odds_N
        model, verdict_ids = (
            self.model.get_base_model(),
            verdict_token_ids(self.tokenizer, self.prompt),
        )
        device = model.device
        packed = PackedRows(encoded)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            for micro_batch in evaluation_micro_batches(encoded, self.eval_tokens):
                batch = packed[micro_batch].to(device)
                hidden_TD = verdict.hidden_states(model, batch)
                odds_B = verdict.log_odds(hidden_TD, verdict.output_head(model), batch, verdict_ids)
                odds_N[list(micro_batch.indices)] = odds_B.cpu().numpy()
        if len(bad := np.flatnonzero(~np.isfinite(odds_N))):
            raise ValueError(
                f"the log-odds of {len(bad)} rows are not finite, the first is row {encoded.rows_N[bad[0]]}; look at "
                "it and at the adapter. The precision 16-mixed may overflow: try bf16-mixed or 32-true"
            )
        return odds_N
