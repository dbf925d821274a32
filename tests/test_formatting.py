from __future__ import annotations

from itertools import count

from mv_lightning.formatting import first_line, flatten_settings, setting_differences, shorten


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


def test_the_first_line_of_an_error_or_its_type() -> None:
    assert first_line(OSError("\n no such file \nadvice")) == "no such file "
    assert first_line(ValueError(" ")) == "ValueError"


def test_settings_by_dotted_names() -> None:
    settings = {"model": {"lora": {"r": 8}, "head": "linear"}, "seed": 3, "none": {}}
    assert flatten_settings(settings) == {"model.lora.r": 8, "model.head": "linear", "seed": 3}
    assert flatten_settings({"r": 8}, "model.lora.") == {"model.lora.r": 8}
