from __future__ import annotations

from mv_lightning.formatting import shorten


def test_a_long_list_is_cut_after_its_first_items() -> None:
    assert shorten([]) == ""
    assert shorten(list(range(5))) == "0, 1, 2, 3, 4"
    assert shorten(list(range(6))) == "0, 1, 2, 3, 4, ..."
    assert shorten(["a", "b"], max_n=1) == "a, ..."
