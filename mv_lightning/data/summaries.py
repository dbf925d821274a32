"""Long solutions replaced by their summaries, which any sequence-to-sequence model writes.

The contest report tried this with T5-small and rejected it; here it is an ablation. A summary is
stored under the hash of the text that it is of, so that no text is summarised twice in a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.formatting import first_line
from mv_lightning.hashing import sha256_bytes, sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is read of a model on the Hub: no pickles, which may hold code."""
_CHUNK = 1_000
"""Texts per call of the tokenizer."""


@dataclass(frozen=True)
class SummarySettings:
    """Which solutions are replaced by summaries, and how these are written."""

    model: str | None = None
    """A sequence-to-sequence model, such as `google-t5/t5-small`: folder or Hub id. Default: no
    solution is replaced."""
    above_tokens: int = 512
    """Solutions of more tokens of the base's tokenizer are replaced."""
    max_length: int = 150
    """Maximum tokens of a summary, of the model's own tokenizer."""
    batch_size: int = 16
    """Solutions that are summarised at once."""

    def __post_init__(self) -> None:
        if self.above_tokens < 0 or min(self.max_length, self.batch_size) < 1:
            raise ValueError(
                "expected data.summarize to have above_tokens of at least 0, max_length and "
                f"batch_size of at least 1, got {self.above_tokens}, {self.max_length} and "
                f"{self.batch_size}. Correct the value."
            )


@dataclass(frozen=True)
class Shortened:
    """N solutions, the long ones replaced."""

    texts: Sequence[str]
    tokens_before_N: np.ndarray
    """int64 [N], tokens of the base's tokenizer."""
    tokens_after_N: np.ndarray
    """int64 [N], the same where nothing was replaced."""
    replaced_N: np.ndarray
    """bool [N]."""


class Summarizer:
    """Replaces long solutions; the model is loaded when the first text has no stored summary."""

    def __init__(self, settings: SummarySettings, folder: Path | None = None) -> None:
        """Load nothing yet.

        Args:
            settings: Which model, and how it is used.
            folder: Where summaries are stored; None to store none.
        """
        self._settings = settings
        self.folder = folder
        self._known: dict[str, str] = {}
        """Summaries by the hash of the text that they are of."""

    @cached_property
    def _model_folder(self) -> Path:
        name = self._settings.model
        assert name is not None
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=list(_FILES)))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"data.summarize.model={name}: expected the folder or the Hub id of a "
                f"sequence-to-sequence model, got {first_line(error)}. Correct the name."
            ) from error

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What decides the summary of a text: settings, and a hash of them and of the model."""
        settings, name = self._settings, self._settings.model
        assert name is not None
        folder = Path(name).expanduser()
        files = sorted(path for pattern in _FILES for path in self._model_folder.glob(pattern))
        parts = [f"{path.name} {sha256_file(path)}" for path in files]
        parts += [str(settings.above_tokens), str(settings.max_length)]
        return {
            # A program that loads the adapter may run in another folder.
            "name": str(folder.absolute()) if folder.is_dir() else name,
            "above_tokens": settings.above_tokens,
            "max_length": settings.max_length,
            "fingerprint": sha256_bytes("\n".join(parts).encode())[:16],
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None) -> Summarizer | None:
        """Return what shortens solutions as they were in training; None where none were.

        Args:
            metadata: What an adapter's metadata say about it.
        """
        if metadata is None or metadata["name"] is None:
            return None
        return cls(
            SummarySettings(
                metadata["name"], metadata["above_tokens"], max_length=metadata["max_length"]
            )
        )

    def shorten(
        self,
        solutions: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        progress: str | None,
        store: bool = True,
    ) -> Shortened:
        """Replace the solutions that are too long.

        Args:
            solutions: N texts.
            tokenizer: Of the base, which counts the tokens.
            progress: Title of a progress bar; None for none.
            store: False for a process that stores nothing.

        Raises:
            ValueError: The model cannot be loaded.
        """
        before_N = _count_tokens(tokenizer, solutions)
        replaced_N = before_N > self._settings.above_tokens
        texts, after_N = list(solutions), before_N.copy()
        places = np.flatnonzero(replaced_N).tolist()
        summaries = self._summaries([texts[place] for place in places], progress, store)
        for place, summary in zip(places, summaries, strict=True):
            texts[place] = summary
        after_N[replaced_N] = _count_tokens(tokenizer, summaries)
        return Shortened(texts, before_N, after_N, replaced_N)

    def _summaries(self, texts: Sequence[str], progress: str | None, store: bool) -> list[str]:
        """The stored summaries, and new ones of the other texts."""
        keys = [sha256_bytes(text.encode()) for text in texts]
        self._known |= self._stored()
        missing: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in self._known:
                missing[key] = text
        if missing:
            self._add(missing, progress, store)
        return [self._known[key] for key in keys]

    @property
    def _path(self) -> Path | None:
        return self.folder and self.folder / f"{self.metadata['fingerprint']}.jsonl"

    def _stored(self) -> dict[str, str]:
        """What is stored; a line that a kill or another process tore is left out."""
        stored: dict[str, str] = {}
        if self._path is None or not self._path.exists():
            return stored
        for line in self._path.read_bytes().splitlines():
            with suppress(ValueError, LookupError, TypeError):
                value = json.loads(line)
                stored[value["of"]] = value["summary"]
        return stored

    def _add(self, missing: dict[str, str], progress: str | None, store: bool) -> None:
        """Summarise texts, the longest first, and store each batch at once: it may be killed."""
        keys = sorted(missing, key=lambda key: (-len(missing[key]), key))
        size = self._settings.batch_size
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        summarize = _load(self._model_folder, self._settings)
        for batch in _with_progress(batches, progress):
            summaries = dict(zip(batch, summarize([missing[key] for key in batch]), strict=True))
            self._known |= summaries
            if store and self._path is not None:
                _append(self._path, summaries)


def _append(path: Path, summaries: Mapping[str, str]) -> None:
    """Add lines in one write, behind what a kill may have left of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"of": key, "summary": text}) + "\n" for key, text in summaries.items()]
    with path.open("ab", buffering=0) as file:
        file.write(("\n" + "".join(lines)).encode())


def _load(folder: Path, settings: SummarySettings) -> Any:
    """Return a function from texts to summaries."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data.summarize.model={settings.model}: expected a sequence-to-sequence model, such "
            f"as T5, in safetensors, got {first_line(error)}. Choose another model."
        ) from error
    model = model.eval().to(device)
    limit = min(
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", tokenizer.model_max_length),
    )
    tasks = getattr(model.config, "task_specific_params", None) or {}
    prefix = tasks.get("summarization", {}).get("prefix", "")

    def summarize(texts: Sequence[str]) -> list[str]:
        inputs = tokenizer(
            [prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            ids = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=settings.max_length,
                do_sample=False,
                num_beams=1,
            )
        summaries: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [summary.strip() for summary in summaries]

    return summarize


def _count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    counts = []
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        encoded = tokenizer(chunk, add_special_tokens=False, split_special_tokens=True)
        counts += [len(ids) for ids in encoded["input_ids"]]
    return np.array(counts, dtype=np.int64)


def _with_progress(batches: Sequence[list[str]], title: str | None) -> Iterator[list[str]]:
    if title is None:
        yield from batches
        return
    from tqdm import tqdm

    with tqdm(total=sum(map(len, batches)), desc=title, unit="solution") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
