"""Two sets of log-odds are compared at the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from mv_lightning.exporting.comparison import compare
from mv_lightning.metrics.calibration import Calibration


def test_flips_are_counted_at_the_threshold() -> None:
    before, after = np.array([-1.0, 0.5, 3.0, 1.5]), np.array([0.5, 1.5, 3.0, 1.6])
    result = compare(
        Calibration(threshold=1.0), before, after, np.array([False, True, True, False])
    )
    assert result["flips"] == 1 and result["log_odds_change"] == {
        "mean": pytest.approx(0.65),
        "max": 1.5,
    }
    assert result["auroc"] == {"before": 0.75, "after": 0.75, "change": 0.0}
