"""The trained verifier in a Python program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from mv_lightning.artifacts.adapter_location import adapter_folder
from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.data.batching import EVAL_TOKENS, PackedRows, evaluation_micro_batches
from mv_lightning.data.completions import Messages, completion_rows, extract_answer
from mv_lightning.data.encoding import RowsTooLong, encode_rows, verdict_token_ids
from mv_lightning.data.prompts import Prompt, prompt_from_metadata
from mv_lightning.data.rows import Rows, text_columns
from mv_lightning.data.summaries import Summarizer
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model import adapter_files, adapters, verdict
from mv_lightning.model.base import BaseSettings, load_base, load_tokenizer
from mv_lightning.model.fingerprints import base_fingerprint, tokenizer_fingerprint
from mv_lightning.model.precision import compute_dtype, default_precision
from mv_lightning.numerics import sigmoid
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Verifier:
    """A base model with a trained adapter, prompted as in training. Created by `load`.

    Its results equal those of `predict` to the last bit on one machine for the same rows: both use
    batches of the same composition. Scored among other rows, the log-odds of a row may differ in
    their last bits.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    max_length: int
    """Maximum tokens of a row; a longer solution loses its middle."""
    calibration: Calibration
    """Calibrated log-odds above its threshold are a verdict of True; `dataclasses.replace` sets
    another calibration."""
    dtype: torch.dtype
    """Of the matmuls."""
    eval_tokens: int
    """Maximum tokens of a batch."""
    summarizer: Summarizer | None = None
    """Replaces long solutions by summaries, as in training; None where none were."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        base: str | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        eval_tokens: int = EVAL_TOKENS,
        max_length: int | None = None,
    ) -> Verifier:
        """Load the adapter of a phase, and its base.

        Args:
            folder: The folder of a finished phase (its final adapter is used) or of an adapter, or
                an adapter on the Hub: `owner/name` or `owner/name@revision`.
            base: Hub id or folder of the base model, if it is not where it was in training.
            device: Where to compute. Default: the first GPU, or the CPU if there is none.
            precision: `bf16-mixed`, `16-mixed` or `32-true`. Default: see `default_precision`.
            eval_tokens: Maximum tokens of a batch; fewer take less memory.
            max_length: Maximum tokens of a row. Default: as in training.

        Raises:
            ValueError: There is no adapter, its base cannot be loaded or is another one than it was
                trained on, or `max_length` is not positive.
        """
        if max_length is not None and max_length < 1:
            raise ValueError(f"expected max_length to be positive, got {max_length}. Raise it")
        folder = adapter_folder(folder)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = compute_dtype(precision or default_precision(device), device)
        metadata = adapter_files.read_metadata(folder)
        settings = BaseSettings(
            name=base or metadata["base"]["name"],
            quantization=metadata["base"]["quantization"],
            gradient_checkpointing=False,
        )
        prompt = prompt_from_metadata(metadata["prompt"])
        summarizer = Summarizer.from_metadata(metadata["summarizer"])
        tokenizer = load_tokenizer(settings)
        loaded = load_base(settings, dtype, device)
        current = {
            "base": {"name": settings.name, "fingerprint": base_fingerprint(loaded)},
            "tokenizer": {"name": settings.name, "fingerprint": tokenizer_fingerprint(tokenizer)},
            "prompt": {"name": prompt.name, "fingerprint": prompt.fingerprint},
            "summarizer": summarizer.metadata if summarizer else adapter_files.NO_SUMMARIZER,
        }
        adapter_files.check_compatible(metadata, current, f"the adapter in {folder}")
        # Weights that are loaded next need no LoftQ initialisation.
        lora = adapters.LoraSettings(**{**metadata["lora"], "loftq": False})
        model = adapters.attach(loaded, lora, metadata["head"])
        adapter_files.load(model, folder)
        return cls(
            model=model.eval(),
            tokenizer=tokenizer,
            prompt=prompt,
            max_length=max_length or metadata["max_length"],
            calibration=load_calibration(folder),
            dtype=dtype,
            eval_tokens=eval_tokens,
            summarizer=summarizer,
        )

    def predict_proba(self, rows: Rows, rows_too_long: RowsTooLong = "error") -> np.ndarray:
        """Return the calibrated probability that each answer is correct: float64 [N].

        Args:
            rows: N rows with `question`, `answer` and `solution`: a list of dicts, a
                `datasets.Dataset`, a dict of lists or a DataFrame. Other columns are ignored.
            rows_too_long: For rows that do not fit into `max_length` even without their solution:
                `error`, or `missing` to give them nan.

        Raises:
            ValueError: A column is missing, a question is empty, or rows do not fit; all of these
                are named, counted from 0.
        """
        return sigmoid(self.log_odds(rows, rows_too_long))

    def log_odds(self, rows: Rows, rows_too_long: RowsTooLong = "error") -> np.ndarray:
        """Return the calibrated log P(True) - log P(False) of each row: float64 [N].

        Args:
            rows: As for `predict_proba`.
            rows_too_long: As for `predict_proba`.

        Raises:
            ValueError: As for `predict_proba`.
        """
        columns = text_columns(rows)
        encoded = self._encode(columns, rows_too_long)
        log_odds_N = np.full(len(columns["question"]), np.nan)
        log_odds_N[encoded.rows_N] = self.calibration.apply(self.raw_log_odds(encoded))
        return log_odds_N

    def as_reward_func(
        self, extract_answer: Callable[[str], str] = extract_answer
    ) -> Callable[..., list[float]]:
        """Return the verifier as a reward function of TRL's trainers.

        The reward of a completion is its calibrated log-odds less the threshold: positive where the
        verdict is True. The completions of a question are computed with the question shared, on the
        verifier's device.

        Args:
            extract_answer: Returns the answer that a completion gives, or an empty text. Default:
                `data.completions.extract_answer`.

        Returns:
            A function of `prompts` and `completions` (texts or messages). The question is the
            prompt's last user message, or the text in a column `question` if the dataset has one;
            other columns are ignored. The reward is nan, which TRL leaves out, where question and
            answer alone do not fit into `max_length`.
        """

        def verifier_reward(
            prompts: Sequence[Messages],
            completions: Sequence[Messages],
            question: Sequence[str] | None = None,
            **columns: Any,
        ) -> list[float]:
            rows = completion_rows(prompts, completions, question, extract_answer)
            log_odds_N = self.log_odds(rows, rows_too_long="missing")
            rewards: list[float] = (log_odds_N - self.calibration.threshold).tolist()
            return rewards

        return verifier_reward

    def encode(self, rows: Rows, rows_too_long: RowsTooLong = "error") -> EncodedRows:
        """Return the token ids of the prompts, with row numbers from 0.

        Args:
            rows: As for `predict_proba`.
            rows_too_long: As for `predict_proba`; `missing` leaves such rows out.

        Raises:
            ValueError: As for `predict_proba`.
        """
        return self._encode(text_columns(rows), rows_too_long)

    def _encode(
        self, columns: Mapping[str, Sequence[str]], rows_too_long: RowsTooLong
    ) -> EncodedRows:
        if rows_too_long not in get_args(RowsTooLong):
            raise ValueError(
                f"expected rows_too_long to be one of {get_args(RowsTooLong)}, got "
                f"{rows_too_long!r}. Choose one of them"
            )
        if self.summarizer is not None:
            shortened = self.summarizer.shorten(columns["solution"], self.tokenizer, None)
            columns = {**columns, "solution": shortened.texts}
        rows_N = np.arange(len(columns["question"]))
        settings = (self.prompt, self.tokenizer, self.max_length)
        return encode_rows(columns, None, rows_N, *settings, rows_too_long=rows_too_long)

    def raw_log_odds(self, encoded: EncodedRows) -> np.ndarray:
        """Return log P(True) - log P(False) of the model, before calibration: float64 [N].

        Args:
            encoded: N rows, in any order.

        Raises:
            ValueError: A log-odds is not finite.
        """
        odds_N = np.zeros(len(encoded))
        if not len(encoded):
            return odds_N
        model = self.model.get_base_model()
        verdict_ids = verdict_token_ids(self.tokenizer, self.prompt)
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
        not_finite = np.flatnonzero(~np.isfinite(odds_N))
        if len(not_finite):
            raise ValueError(
                f"the log-odds of {len(not_finite)} rows are not finite, the first is row "
                f"{encoded.rows_N[not_finite[0]]}. Check it and the adapter. The precision "
                "16-mixed may overflow: try bf16-mixed or 32-true"
            )
        return odds_N
