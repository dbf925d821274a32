"""Files of options are mappings of known names; values are spelt as in configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.experiments.option_files import option_args, read_mapping


def test_values_are_spelt_as_in_a_configuration_file() -> None:
    options = {"a.b": True, "c": None, "d": 1e-5, "e": "text, more", "f": [{"path": "x"}]}
    assert option_args(options) == [
        "--a.b=true", "--c=null", "--d=1e-05", "--e=text, more", '--f=[{"path": "x"}]',
    ]  # fmt: skip


def test_only_mappings_of_known_names_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: [x.yaml]\ntitle: t")
    assert read_mapping(file, "the file", ("title", "base")) == {"base": ["x.yaml"], "title": "t"}
    with pytest.raises(ValueError, match=r"the file .*: expected .* title, got \['base'\]"):
        read_mapping(file, "the file", ("title",))
    file.write_text("[title]")
    with pytest.raises(ValueError, match=r"expected a mapping of title, got \['title'\]"):
        read_mapping(file, "the file", ("title",))
    with pytest.raises(ValueError, match=r"the file .*none.yaml cannot be read"):
        read_mapping(tmp_path / "none.yaml", "the file", ("title",))
