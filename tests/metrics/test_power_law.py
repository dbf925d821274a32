"""The fit finds the law that the points were made from, and never a worse one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.metrics.power_law import PowerLaws, fit_power_laws

ROWS_P = np.array([250, 500, 1_000, 2_000, 4_000])


def law(floor: float, scale: float, exponent: float) -> PowerLaws:
    return PowerLaws(np.array([floor]), np.array([scale]), np.array([exponent]))


@pytest.mark.parametrize("true", [(0.1, 3.0, 0.5), (0.0, 1.2, 0.2), (0.2, 40.0, 1.0)])
def test_a_law_without_noise_is_found(true: tuple[float, float, float]) -> None:
    made = law(*true)
    fitted = fit_power_laws(ROWS_P, made.errors(ROWS_P))
    np.testing.assert_allclose(fitted.errors(ROWS_P), made.errors(ROWS_P), atol=2e-4)
    np.testing.assert_allclose(fitted.exponent_R, made.exponent_R, rtol=0.01)
    needed = made.errors(np.array([20_000]))[0, 0]
    np.testing.assert_allclose(fitted.rows_for(needed), [20_000], rtol=0.05)


@given(st.integers(0, 2**32 - 1))
def test_no_law_of_the_kind_is_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors_RP = rng.random((3, len(ROWS_P)))
    fitted = fit_power_laws(ROWS_P, errors_RP)
    assert (fitted.floor_R >= 0).all() and (fitted.scale_R >= 0).all()
    squares_R = ((fitted.errors(ROWS_P) - errors_RP) ** 2).sum(axis=1)
    for floor, factor in ((0.0, 1.0), (0.05, 1.0), (0.0, 0.95), (0.0, 1.05)):
        other = PowerLaws(fitted.floor_R + floor, fitted.scale_R * factor, fitted.exponent_R)
        assert (((other.errors(ROWS_P) - errors_RP) ** 2).sum(axis=1) >= squares_R - 1e-12).all()


def test_rows_for_an_error() -> None:
    # 0.1 + 2 n^-0.5 = 0.2 at n = 400.
    laws = PowerLaws(np.array([0.1, 0.2]), np.array([2.0, 2.0]), np.array([0.5, 0.5]))
    assert laws.rows_for(0.2).tolist() == [pytest.approx(400), np.inf]


def test_errors_that_grow_give_a_flat_line() -> None:
    fitted = fit_power_laws(ROWS_P, np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]))
    np.testing.assert_allclose(fitted.errors(ROWS_P), np.full((1, 5), 0.3))
    assert fitted.rows_for(0.2).tolist() == [np.inf]


def test_two_sizes_are_too_few() -> None:
    with pytest.raises(ValueError, match="3 different numbers of rows or more"):
        fit_power_laws(np.array([10, 20, 20]), np.zeros((1, 3)))
