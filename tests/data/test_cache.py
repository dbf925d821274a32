"""What is read back is what was tokenised; anything else is tokenised again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.data import cache
from mv_lightning.data.batching import evaluation_micro_batches, pack
from mv_lightning.data.cache import KEY, cached
from mv_lightning.schema import EncodedRows

FIELDS = [field.name for field in dataclasses.fields(EncodedRows)]


def never() -> list[EncodedRows]:
    raise AssertionError("tokenised again")


def parts_of(encoded: EncodedRows, size: int) -> Iterator[EncodedRows]:
    """`size` rows at a time; the first part is empty."""
    for start in range(-size, len(encoded), size):
        first = max(0, start)
        starts_N = encoded.starts_N[first : start + size + 1]
        arrays = {"ids_T": encoded.ids_T[starts_N[0] : starts_N[-1]], "starts_N": starts_N}
        for name in ("labels_N", "rows_N", "truncated_N", "question_prefix_N"):
            arrays[name] = getattr(encoded, name)[first : start + size]
        arrays["starts_N"] = starts_N - starts_N[0]
        yield dataclasses.replace(encoded, **arrays)


def assert_same(one: EncodedRows, other: EncodedRows) -> None:
    assert one.prefix_ids == other.prefix_ids
    for name in FIELDS[:-1]:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_parts_are_stored_as_one_array_of_each_kind(tmp_path: Path, siblings: EncodedRows) -> None:
    folder = tmp_path / "tokens"
    stored = cached(folder, {}, lambda: parts_of(siblings, 3))
    assert isinstance(stored.ids_T, np.memmap) and len(siblings) > 6
    assert_same(stored, siblings)
    for name in FIELDS:
        np.save(tmp_path / "saved.npy", np.asarray(getattr(siblings, name)))
        assert (folder / f"{name}.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    in_memory = cached(tmp_path / "other", {}, lambda: parts_of(siblings, 3), write=False)
    assert not isinstance(in_memory.ids_T, np.memmap)
    assert_same(in_memory, siblings)


def test_rows_stay_in_memory_where_the_disk_is_short(
    tmp_path: Path, siblings: EncodedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(np.asarray(getattr(siblings, name)).nbytes for name in FIELDS)
    for free, is_stored in ((2 * size - 2, False), (2 * size + 64, True)):
        monkeypatch.setattr(cache, "free_bytes", lambda folder, free=free: free)
        assert_same(cached(tmp_path / "tokens", {}, lambda: parts_of(siblings, 2)), siblings)
        assert [path.name for path in tmp_path.iterdir()] == ["tokens"] * is_stored


def test_a_failure_while_rows_are_made_leaves_nothing(
    tmp_path: Path, siblings: EncodedRows
) -> None:
    def failing() -> Iterator[EncodedRows]:
        yield siblings
        raise ValueError("too long")

    with pytest.raises(ValueError, match="too long"):
        cached(tmp_path / "tokens", {}, failing)
    assert not list(tmp_path.iterdir())


def test_the_second_time_reads_what_the_first_wrote(tmp_path: Path, siblings: EncodedRows) -> None:
    first = cached(tmp_path / "tokens", {"rows": 1}, lambda: [siblings])
    second = cached(tmp_path / "tokens", {"rows": 1}, never)
    assert isinstance(second.ids_T, np.memmap)
    assert_same(first, siblings)
    assert_same(second, siblings)
    micro_batches = list(evaluation_micro_batches(second, 400))
    assert micro_batches == list(evaluation_micro_batches(siblings, 400))
    for micro_batch in micro_batches:
        batches = [pack(rows, np.array(micro_batch.indices), 8) for rows in (second, siblings)]
        assert (
            batches[0].ids_T.tolist() == batches[1].ids_T.tolist()
            and batches[0].packing == batches[1].packing
        )


def test_another_key_is_tokenised_and_kept_in_its_place(
    tmp_path: Path, encoded: EncodedRows, siblings: EncodedRows
) -> None:
    cached(tmp_path / "tokens", {"limit": 1}, lambda: [siblings])
    assert_same(cached(tmp_path / "tokens", {"limit": 2}, lambda: [encoded]), encoded)
    assert len(cached(tmp_path / "tokens", {"limit": 2}, never)) == len(encoded)


@pytest.mark.parametrize("name", [*(f"{field}.npy" for field in FIELDS), KEY])
@pytest.mark.parametrize("damage", ["gone", "cut", "altered"])
def test_damage_is_noticed(tmp_path: Path, siblings: EncodedRows, name: str, damage: str) -> None:
    file = tmp_path / "tokens" / name
    cached(tmp_path / "tokens", {}, lambda: [siblings])
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        )
    assert_same(cached(tmp_path / "tokens", {}, lambda: [siblings]), siblings)
    assert len(cached(tmp_path / "tokens", {}, never)) == len(siblings)


def test_a_reader_writes_nothing(tmp_path: Path, siblings: EncodedRows) -> None:
    for _ in range(2):
        cached(tmp_path / "tokens", {}, lambda: [siblings], write=False)
    assert not list(tmp_path.iterdir())
