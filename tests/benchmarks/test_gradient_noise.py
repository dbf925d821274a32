"""The variance of gradients, within the classes and in all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gradient_noise import variances


def test_the_variances_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.random(50) < 0.3
    gradients_NP = rng.normal(size=(50, 7)) + 2 * labels_N[:, None]
    found = variances(torch.from_numpy(gradients_NP).float(), labels_N)
    assert found["total"] == pytest.approx(gradients_NP.var(axis=0, ddof=1).sum(), rel=1e-5)
    squares = [
        ((part - part.mean(axis=0)) ** 2).sum()
        for part in (gradients_NP[labels_N], gradients_NP[~labels_N])
    ]
    assert found["within"] == pytest.approx(sum(squares) / 48, rel=1e-5)
    assert found["within"] < 0.8 * found["total"]
