from __future__ import annotations

from itertools import count

from mv_lightning.formatting import setting_differences, shorten


def test_shorten_marks_what_it_leaves_out() -> None:
    assert shorten([]) == ""
    assert shorten(range(5)) == "0, 1, 2, 3, 4"
    assert shorten(range(6)) == "0, 1, 2, 3, 4, ..."
    assert shorten(count(), max_n=2) == "0, 1, ..."


def test_setting_differences_name_both_values_and_only_what_is_asked_for() -> None:
    stored = {"rank": 8, "prompt": "basic", "extra": 1}
    assert setting_differences(stored, {"rank": 8, "prompt": "basic"}) == ""
    assert (
        setting_differences(stored, {"rank": 16, "prompt": "basic", "seed": 1})
        == "rank was 8, is 16; seed was None, is 1"
    )
