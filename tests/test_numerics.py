from __future__ import annotations

import warnings

import numpy as np
import pytest

from mv_lightning.numerics import sigmoid


def test_sigmoid_is_exact_in_the_middle_and_does_not_overflow_at_the_ends() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = sigmoid(np.array([-1e4, -800.0, -2.0, 0.0, 3.0, 800.0]))
        assert np.isnan(sigmoid(np.array([np.nan, 1.0]))).tolist() == [True, False]
    assert values == pytest.approx([0, 0, 1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-3), 1])
    assert values[1] == 0 and 0 < sigmoid(np.array(-740.0)) < 1e-300
