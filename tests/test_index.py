"""The index contract, the same for every kind of FAISS index that can keep it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfeed.retrieval.arrays import Vectors, unit
from whyfeed.retrieval.community.index import PostIndex, largest
from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.files import write_whole

DIMENSION = 16
FLAT, IVF, HNSW = "IDMap2,Flat", "IVF4,SQ8", "IDMap2,HNSW16"
KINDS = pytest.mark.parametrize("factory", [FLAT, IVF, HNSW])
REMOVING = pytest.mark.parametrize("factory", [FLAT, IVF])


def vectors(count: int, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, DIMENSION)))


def filled(factory: str, count: int = 60) -> tuple[PostIndex, Vectors]:
    index = PostIndex(DIMENSION, "model", factory)
    data = vectors(count)
    index.add(range(100, 100 + count), [f"d{number}" for number in range(count)], data)
    return index, data


def found(index: PostIndex, vector: Vectors, k: int = 5, exclude: list[int] | None = None) -> list[int]:
    (hits,) = index.search(vector[None, :], k, None if exclude is None else np.array(exclude))
    return [num for num, _ in hits]


@KINDS
def test_each_vector_finds_itself_first(factory: str) -> None:
    index, data = filled(factory)
    assert len(index) == 60
    for place, vector in enumerate(data):
        (hits,) = index.search(vector[None, :], 5)
        assert hits[0][0] == 100 + place
        assert hits[0][1] == pytest.approx(1.0, abs=0.05)
        assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)


@KINDS
def test_several_queries_get_an_answer_each(factory: str) -> None:
    index, data = filled(factory)
    assert [hits[0][0] for hits in index.search(data[:7], 3)] == list(range(100, 107))
    assert index.search(np.zeros((0, DIMENSION), dtype=np.float32), 3) == []


@REMOVING
def test_replacing_leaves_no_duplicate_and_no_old_vector(factory: str) -> None:
    index, data = filled(factory)
    new = vectors(1, seed=9)
    index.add([110], ["new"], new)
    assert len(index) == 60
    assert index.digests()[110] == "new"
    assert found(index, new[0], 1) == [110]
    everything = found(index, data[10], 1000)
    assert len(everything) == len(set(everything))
    assert found(index, data[10], 1) != [110]


@REMOVING
def test_what_is_removed_is_never_found_again(factory: str) -> None:
    index, data = filled(factory)
    index.remove([105, 106, 9999])
    assert len(index) == 58
    assert 105 not in index
    assert 107 in index
    assert not {105, 106} & set(found(index, data[5], 1000))
    index.add([105], ["back"], data[5:6])
    assert found(index, data[5], 1) == [105]


def test_an_index_that_cannot_remove_says_so(tmp_path: Path) -> None:
    index, data = filled(HNSW)
    assert not index.can_remove
    with pytest.raises(ValueError, match="cannot remove"):
        index.remove([105])
    with pytest.raises(ValueError, match="cannot remove"):
        index.add([105, 200], ["new", "new"], vectors(2, seed=3))
    assert len(index) == 60
    assert found(index, data[5], 1) == [105]
    index.remove([9999])


@KINDS
def test_what_is_excluded_is_never_found(factory: str) -> None:
    index, data = filled(factory)
    assert 105 not in found(index, data[5], 60, [105])
    assert found(index, data[5], 3, [1, 2, 3])[0] == 105
    nearest = found(index, data[5], 4)
    assert found(index, data[5], 3, nearest[:1]) == nearest[1:4]
    assert found(index, data[5], 5, list(range(100, 160))) == []


@KINDS
def test_more_than_there_is_gives_what_there_is(factory: str) -> None:
    index, data = filled(factory, 8)
    numbers = found(index, data[0], 1000)
    assert len(numbers) == len(set(numbers)) <= 8
    assert set(numbers) <= set(range(100, 108))
    assert found(index, data[0], 0) == []


@KINDS
def test_an_empty_index_finds_nothing(factory: str) -> None:
    index = PostIndex(DIMENSION, "model", factory)
    assert index.search(vectors(2), 5) == [[], []]
    index.add([], [], np.zeros((0, DIMENSION), dtype=np.float32))
    assert len(index) == 0


@KINDS
def test_wrong_shapes_are_refused_and_change_nothing(factory: str) -> None:
    index, data = filled(factory)
    before = index.digest
    wide = np.zeros((1, DIMENSION + 1), dtype=np.float32)
    for nums, digests, wrong in (
        ([1], ["d"], wide),
        ([1, 2], ["d", "d"], data[:1]),
        ([1], [], data[:1]),
        ([1], ["d"], data[0]),
        ([1, 1], ["d", "d"], data[:2]),
    ):
        with pytest.raises(ValueError, match=r"need|twice"):
            index.add(nums, digests, wrong)
    for query in (wide, data[0]):
        with pytest.raises(ValueError, match="query vectors"):
            index.search(query, 3)
    assert index.digest == before


@KINDS
def test_saved_and_loaded_it_is_the_same_index(factory: str, tmp_path: Path) -> None:
    index, data = filled(factory)
    index.save(tmp_path / "index.faiss")
    loaded = PostIndex.load(tmp_path / "index.faiss", DIMENSION, "model", factory)
    assert loaded is not None
    assert loaded.digests() == index.digests()
    assert loaded.digest == index.digest
    assert loaded.search(data, 7) == index.search(data, 7)
    assert loaded.search(data, 7, np.array([103, 104])) == index.search(data, 7, np.array([103, 104]))
    loaded.add([500], ["d"], vectors(1, seed=5))
    assert found(loaded, vectors(1, seed=5)[0], 1) == [500]


def test_the_digest_says_what_is_in_it() -> None:
    index, data = filled(FLAT)
    other, _ = filled(FLAT)
    assert index.digest == other.digest
    seen = {index.digest}
    for change in (
        lambda: other.add([105], ["changed"], data[5:6]),
        lambda: other.remove([105]),
        lambda: other.add([999], ["d5"], data[5:6]),
    ):
        change()
        assert other.digest not in seen
        seen.add(other.digest)


@KINDS
@pytest.mark.parametrize(
    "damage", ["missing", "no manifest", "cut", "flipped", "empty", "manifest cut", "manifest list", "other digest"]
)
def test_a_damaged_file_is_no_index(factory: str, tmp_path: Path, damage: str) -> None:
    path, manifest = tmp_path / "index.faiss", tmp_path / "index.json"
    filled(factory)[0].save(path)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "manifest cut":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    elif damage == "manifest list":
        manifest.write_text("[1, 2]")
    else:
        document = json.loads(manifest.read_bytes())
        document["posts"]["100"] = "another"
        manifest.write_text(json.dumps(document))
    assert PostIndex.load(path, DIMENSION, "model", factory) is None


@KINDS
def test_an_index_of_something_else_is_no_index(factory: str, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    filled(factory)[0].save(path)
    assert PostIndex.load(path, DIMENSION, "another model", factory) is None
    assert PostIndex.load(path, DIMENSION + 1, "model", factory) is None
    assert PostIndex.load(path, DIMENSION, "model", FLAT if factory != FLAT else HNSW) is None


def test_an_unknown_factory_is_said_in_one_line() -> None:
    with pytest.raises(HomeError, match="'Flatter'"):
        PostIndex(DIMENSION, "model", "Flatter")


def test_too_few_vectors_to_train_on_are_said_in_one_line() -> None:
    index = PostIndex(DIMENSION, "model", IVF)
    with pytest.raises(HomeError, match="'IVF4,SQ8'") as caught:
        index.add([1], ["d"], vectors(1))
    assert "\n" not in str(caught.value)
    assert len(index) == 0


def test_a_file_that_cannot_be_written_is_said_and_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="cannot write"):
        write_whole(tmp_path / "missing" / "file", b"new")
    write_whole(tmp_path / "file", b"old")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


_steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True)),
    max_size=12,
)


@given(_steps, st.integers(0, 2**32 - 1), st.integers(0, 20), st.sets(st.integers(0, 12)))
def test_flat_is_brute_force(steps: list[tuple[str, list[int]]], seed: int, k: int, excluded: set[int]) -> None:
    index, truth = PostIndex(DIMENSION, "model"), dict[int, Vectors]()
    rng = np.random.default_rng(seed)
    for number, (step, nums) in enumerate(steps):
        if step == "add":
            new = unit(rng.standard_normal((len(nums), DIMENSION)))
            index.add(nums, [f"{number}"] * len(nums), new)
            truth.update(zip(nums, new, strict=True))
        else:
            index.remove(nums)
            for num in nums:
                truth.pop(num, None)
    assert set(index.digests()) == set(truth)
    query = unit(rng.standard_normal(DIMENSION))
    scores = {num: float(vector @ query) for num, vector in truth.items() if num not in excluded}
    (hits,) = index.search(query[None, :], k, np.array(sorted(excluded), dtype=np.int64))
    assert [num for num, _ in hits] == sorted(scores, key=lambda num: -scores[num])[:k]
    assert [score for _, score in hits] == pytest.approx([scores[num] for num, _ in hits], abs=1e-5)


@given(st.lists(st.integers(-4, 4), max_size=200), st.integers(1, 60))
def test_the_largest_values_come_first_and_equal_ones_in_their_order(values: list[int], k: int) -> None:
    found = largest(np.array(values, dtype=np.float32), k)
    assert found.tolist() == sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
