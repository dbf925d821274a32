"""What is read back is what was tokenised; anything else is tokenised again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.data.batching import evaluation_micro_batches, pack
from mv_lightning.data.cache import KEY, cached
from mv_lightning.schema import EncodedRows

FIELDS = [field.name for field in dataclasses.fields(EncodedRows)]


def never() -> EncodedRows:
    raise AssertionError("tokenised again")


def test_the_second_time_reads_what_the_first_wrote(tmp_path: Path, siblings: EncodedRows) -> None:
    first = cached(tmp_path / "tokens", {"rows": 1}, lambda: siblings)
    second = cached(tmp_path / "tokens", {"rows": 1}, never)
    assert (
        first is siblings
        and isinstance(second.ids_T, np.memmap)
        and second.prefix_ids == siblings.prefix_ids
    )
    for name in FIELDS[:-1]:
        assert getattr(second, name).dtype == getattr(siblings, name).dtype
        assert np.array_equal(getattr(second, name), getattr(siblings, name))
    micro_batches = evaluation_micro_batches(second, 400)
    assert micro_batches == evaluation_micro_batches(siblings, 400)
    for micro_batch in micro_batches:
        batches = [pack(rows, np.array(micro_batch.indices), 8) for rows in (second, siblings)]
        assert (
            batches[0].ids_T.tolist() == batches[1].ids_T.tolist()
            and batches[0].packing == batches[1].packing
        )


def test_another_key_is_tokenised_and_kept_in_its_place(
    tmp_path: Path, encoded: EncodedRows, siblings: EncodedRows
) -> None:
    cached(tmp_path / "tokens", {"limit": 1}, lambda: siblings)
    assert cached(tmp_path / "tokens", {"limit": 2}, lambda: encoded) is encoded
    assert len(cached(tmp_path / "tokens", {"limit": 2}, never)) == len(encoded)


@pytest.mark.parametrize("name", [*(f"{field}.npy" for field in FIELDS), KEY])
@pytest.mark.parametrize("damage", ["gone", "cut", "altered"])
def test_damage_is_noticed(tmp_path: Path, siblings: EncodedRows, name: str, damage: str) -> None:
    file = tmp_path / "tokens" / name
    cached(tmp_path / "tokens", {}, lambda: siblings)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        )
    assert cached(tmp_path / "tokens", {}, lambda: siblings) is siblings
    assert len(cached(tmp_path / "tokens", {}, never)) == len(siblings)


def test_a_reader_writes_nothing(tmp_path: Path, siblings: EncodedRows) -> None:
    assert cached(tmp_path / "tokens", {}, lambda: siblings, write=False) is siblings
    assert cached(tmp_path / "tokens", {}, lambda: siblings, write=False) is siblings
