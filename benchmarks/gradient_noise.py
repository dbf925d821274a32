"""What the gradients of single rows have in common, and how much of a step's noise that is.

    python -m benchmarks.gradient_noise PHASE FILE [--rows 40]

PHASE is the folder of a finished phase, FILE has labelled rows. The gradient of the verdict
loss is computed row by row. Its variance over the rows is divided into the part between the two
classes, which `data.stratify` removes from a step, and the part within them. Then every parameter
is moved by the learning rate along the sign of the gradient of the mean log-odds, much as Adam does
in its first step, and the changes of the rows' log-odds are compared. Writes
`benchmarks/results/gradient_noise.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import record
from mv_lightning.data.batching import pack
from mv_lightning.data.encoding import verdict_token_ids
from mv_lightning.data.sources import load_source
from mv_lightning.model import verdict
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.schema import EncodedRows
from mv_lightning.verifier import Verifier

STEP_ROWS = 8
LEARNING_RATE = 2e-4
"""Of the report."""


def variances(gradients: Iterable[torch.Tensor], labels_N: np.ndarray) -> dict[str, float]:
    """Return the variance of the gradient of a row, summed over the parameters.

    Args:
        gradients: N vectors; each is needed only until the next.
        labels_N: bool [N], with at least two rows of each class.

    Returns:
        `total`, and `within` the classes: that of a row whose class is given. Both are unbiased.
    """
    sums: dict[bool, torch.Tensor] = {}
    squares = 0.0
    for gradient_P, label in zip(gradients, labels_N.tolist(), strict=True):
        sums[label] = sums[label] + gradient_P if label in sums else gradient_P.clone()
        squares += _square(gradient_P)
    of_classes = sum(
        _square(sum_P) / np.count_nonzero(labels_N == label) for label, sum_P in sums.items()
    )
    of_mean = _square(sums[True] + sums[False]) / len(labels_N)
    return {
        "total": (squares - of_mean) / (len(labels_N) - 1),
        "within": float(squares - of_classes) / (len(labels_N) - 2),
    }


def _square(vector: torch.Tensor) -> float:
    return float(vector.double().square().sum())


class RowGradients:
    """The losses and log-odds of a verifier's rows, with gradients."""

    def __init__(self, verifier: Verifier, encoded: EncodedRows) -> None:
        """Store the model and the rows.

        Args:
            verifier: The model; its adapters collect gradients.
            encoded: Labelled rows.
        """
        self._verifier, self._encoded = verifier, encoded
        self._verdict_ids = verdict_token_ids(verifier.tokenizer, verifier.prompt)
        self._parameters: list[torch.Tensor] = list(trained_parameters(verifier.model).values())

    def each(self) -> Iterator[torch.Tensor]:
        """Yield the gradient of the verdict loss of each row, over all trained parameters."""
        for row in tqdm(range(len(self._encoded)), unit="row"):
            loss_1, _ = self._forward(np.array([row]))
            gradients = torch.autograd.grad(loss_1.sum(), self._parameters)
            yield torch.cat([gradient.flatten() for gradient in gradients])

    def change(self, n_rows: int, lr: float) -> np.ndarray:
        """Return the changes of the log-odds in a step that raises their mean: [n_rows].

        Args:
            n_rows: The first so many rows are used.
            lr: By how much every parameter is moved.
        """
        rows_B = np.arange(n_rows)
        _, before_B = self._forward(rows_B)
        signs = [one.sign() for one in torch.autograd.grad(before_B.mean(), self._parameters)]
        with torch.no_grad():
            for parameter, sign in zip(self._parameters, signs, strict=True):
                parameter += lr * sign
            _, after_B = self._forward(rows_B)
            for parameter, sign in zip(self._parameters, signs, strict=True):
                parameter -= lr * sign
        changes_B: np.ndarray = (after_B - before_B).detach().numpy()
        return changes_B

    def _forward(self, rows_B: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and log-odds, fp32 [B] each."""
        model, dtype = self._verifier.model.get_base_model(), self._verifier.dtype
        batch = pack(self._encoded, rows_B, len(rows_B))
        head = verdict.output_head(model)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden_TD = verdict.hidden_states(model, batch)
            loss_B = verdict.verdict_loss(hidden_TD, head, batch, self._verdict_ids)
            return loss_B, verdict.log_odds(hidden_TD, head, batch, self._verdict_ids)


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phase", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=40, help="the first so many are used")
    options = parser.parse_args()
    torch.set_num_threads(1)
    verifier, source = Verifier.load(options.phase, device="cpu"), load_source(str(options.file))
    assert source.labels_N is not None
    labels_N = source.labels_N[: options.rows]
    encoded = verifier.encode(source.table.select(range(options.rows)))
    gradients = RowGradients(verifier, replace(encoded, labels_N=labels_N.astype(np.int8)))
    found = variances(gradients.each(), labels_N)
    change_B = gradients.change(STEP_ROWS, LEARNING_RATE)
    record(
        "gradient_noise",
        settings={"run": options.phase.parent.name, "rows": options.file.stem},
        figures={
            **found,
            "rows": options.rows,
            "between_share": 1 - found["within"] / found["total"],
            "rows_of_a_random_step_with_equal_noise": STEP_ROWS * found["total"] / found["within"],
            "mean_change_of_log_odds": float(change_B.mean()),
            "spread_of_the_changes": float(change_B.std()),
        },
    )


if __name__ == "__main__":
    main()
