"""Versions of trained models: whole or not there, verified, one of them live, with a way back."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typer.testing import CliRunner

from tests import desk_world
from tests.conftest import EMBEDDER
from whyfeed.agent.desk.ranker import ReplyRanker
from whyfeed.agent.doctor import examine
from whyfeed.agent.recommend.ranker import HAND_SET, Ranker
from whyfeed.agent.recommend.snapshot import Snapshots
from whyfeed.agent.registry import CARD, KEPT, POINTER, Registry
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.cli.main import app

FILES = {"a.bin": b"\x00\x01", "b.json": b"{}"}


def made(home: Path, versions: int = 1) -> Registry:
    """A registry in which so many versions went live one after the other."""
    registry = Registry(home, lambda: 7.0)
    for number in range(1, versions + 1):
        registry.add("ranker", {**FILES, "n": str(number).encode()}, {"number": number}, live=True)
    return registry


def numbers(registry: Registry) -> list[int]:
    return [record.version for record in registry.versions("ranker")]


def live(registry: Registry) -> int | None:
    return next((record.version for record in registry.versions("ranker") if record.live), None)


# ---- versions


def test_what_is_added_is_there_and_not_live_until_it_is_promoted(tmp_path: Path) -> None:
    registry = made(tmp_path, 0)
    assert (registry.names(), registry.live("ranker"), registry.versions("ranker")) == ([], None, [])
    assert list(tmp_path.iterdir()) == []  # reading writes nothing
    assert registry.add("ranker", FILES, {"ndcg": 0.5}) == 1
    assert registry.live("ranker") is None
    before = registry.stamp("ranker")
    registry.promote("ranker", 1)
    assert registry.stamp("ranker") != before
    place = registry.live("ranker")
    assert place == tmp_path / "models" / "ranker" / "1"
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.name != CARD} == FILES
    (record,) = registry.versions("ranker")
    assert (record.version, record.card, record.live, record.when, record.trouble) == (1, {"ndcg": 0.5}, True, 7.0, "")
    assert registry.names() == ["ranker"]


def test_a_folder_of_a_trainer_is_moved_in_whole(tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w").write_bytes(b"1")
    (folder / CARD).write_text('{"of": "the trainer"}')
    registry = Registry(tmp_path / "home")
    assert registry.add_folder("writer", folder, {"seed": 1}, live=True) == 1
    assert not folder.exists()
    place = registry.live("writer")
    assert place is not None
    assert (place / "deep" / "w").read_bytes() == b"1"
    assert registry.versions("writer")[0].card == {"seed": 1}
    with pytest.raises(DataError, match="no folder"):
        registry.add_folder("writer", folder, {})
    (place / "deep" / "w").write_bytes(b"2")
    assert registry.live("writer") is None


@pytest.mark.parametrize("name", ["", "Ranker", "..", "a/b", ".hidden", "a" * 99])
def test_a_name_is_a_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a model"):
        Registry(tmp_path).add(name, FILES, {})
    with pytest.raises(ValueError, match="no name for a file"):
        Registry(tmp_path).add("ranker", {"../x": b""}, {})
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    registry = Registry(tmp_path)
    with pytest.raises(HomeError, match="cannot write"):
        registry.add("ranker", FILES, {})
    assert (registry.names(), registry.live("ranker")) == ([], None)


# ---- going back


def test_back_goes_step_by_step_to_what_is_built_in(tmp_path: Path) -> None:
    registry = made(tmp_path, 3)
    assert [registry.rollback("ranker") for _ in range(4)] == [2, 1, None, None]
    assert registry.live("ranker") is None
    assert registry.trouble("ranker") == ""
    registry.promote("ranker", 3)  # and forth again
    assert live(registry) == 3
    assert registry.add("ranker", FILES, {}) == 4


def test_built_in_is_something_that_was_live_too(tmp_path: Path) -> None:
    registry = made(tmp_path, 2)
    registry.promote("ranker", None)
    registry.promote("ranker", 1)
    assert [registry.rollback("ranker") for _ in range(3)] == [None, 2, 1]


def test_back_passes_over_what_is_damaged(tmp_path: Path) -> None:
    registry = made(tmp_path, 4)
    (tmp_path / "models" / "ranker" / "3" / "n").write_bytes(b"x")
    shutil.rmtree(tmp_path / "models" / "ranker" / "2")
    assert registry.rollback("ranker") == 1


def test_only_what_may_be_needed_stays_on_the_disk(tmp_path: Path) -> None:
    registry = made(tmp_path, KEPT + 4)
    assert numbers(registry) == list(range(KEPT + 4, 3, -1))
    for _ in range(KEPT + 2):
        registry.add("ranker", FILES, {})  # none of them wins
    assert live(registry) == KEPT + 4
    assert len(numbers(registry)) == 1 + 2 * KEPT
    assert [registry.rollback("ranker") for _ in range(KEPT)] == list(range(KEPT + 3, 3, -1))
    assert sorted(path.name for path in (tmp_path / "models" / "ranker").iterdir() if path.is_dir()) == sorted(
        map(str, numbers(registry))
    )


def test_what_cannot_be_used_is_not_promoted(tmp_path: Path) -> None:
    registry = made(tmp_path, 2)
    with pytest.raises(DataError, match=r"no version 9 .*there are: 1, 2"):
        registry.promote("ranker", 9)
    (tmp_path / "models" / "ranker" / "1" / "a.bin").unlink()
    with pytest.raises(DataError, match=r"cannot be used: a\.bin cannot be read"):
        registry.promote("ranker", 1)
    assert live(registry) == 2


class Histories(RuleBasedStateMachine):
    """Against a model: a list of what was live, newest last."""

    @initialize()
    def start(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.registry = Registry(Path(self.home.name))
        self.added, self.now = 0, None
        self.before: list[int | None] = []

    @rule()
    def add(self) -> None:
        self.added += 1
        assert self.registry.add("x", {"n": str(self.added).encode()}, {}) == self.added

    @precondition(lambda self: self.added)
    @rule(back=st.integers(0, KEPT - 1), none=st.booleans())
    def promote(self, back: int, none: bool) -> None:
        version = None if none else max(1, self.added - back)
        self.registry.promote("x", version)
        if version != self.now:
            self.before, self.now = [self.now, *self.before][:KEPT], version

    @rule()
    def rollback(self) -> None:
        self.now = self.before.pop(0) if self.before else None
        assert self.registry.rollback("x") == self.now

    def teardown(self) -> None:
        self.home.cleanup()

    @invariant()
    def live_is_whole(self) -> None:
        place = self.registry.live("x")
        assert (place is None) == (self.now is None)
        if place is not None:
            assert (place / "n").read_bytes() == str(self.now).encode()
        assert len(self.registry.versions("x")) <= 1 + 2 * KEPT


def test_any_history_is_as_the_model_says() -> None:
    run_state_machine_as_test(Histories, settings=settings(max_examples=12, stateful_step_count=20, deadline=None))


# ---- damage

_GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["live", "before", "x"]), inner),
    ).map(lambda document: json.dumps(document).encode()),
    st.fixed_dictionaries({"live": st.integers() | st.none(), "before": st.lists(st.integers())}).map(
        lambda document: json.dumps(document).encode()
    ),
    st.just(b"[" * 100_000),
    st.just(b'{"live": ' + b"9" * 5000 + b', "before": []}'),
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions; tests copy it."""
    home = tmp_path_factory.mktemp("two")
    made(home, 2)
    return home


@settings(max_examples=40, deadline=None)
@given(data=_GARBAGE)
def test_any_pointer_leaves_the_registry_of_use(
    two: Path, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    home = Path(shutil.copytree(two, tmp_path_factory.mktemp("pointer"), dirs_exist_ok=True))
    registry = Registry(home)
    (home / "models" / "ranker" / POINTER).write_bytes(data)
    place = registry.live("ranker")
    assert place is None or place.name in ("1", "2")
    assert "\n" not in registry.trouble("ranker")
    assert numbers(registry) == [2, 1]
    assert Ranker.load(home).weights == HAND_SET
    added = registry.add("ranker", FILES, {})
    assert added > 2
    registry.promote("ranker", added)
    assert live(registry) == added
    registry.rollback("ranker")


@settings(max_examples=40, deadline=None)
@given(data=_GARBAGE, file=st.sampled_from([CARD, "a.bin"]))
def test_any_damage_to_a_version_is_noticed(
    two: Path, tmp_path_factory: pytest.TempPathFactory, data: bytes, file: str
) -> None:
    home = Path(shutil.copytree(two, tmp_path_factory.mktemp("version"), dirs_exist_ok=True))
    registry = Registry(home)
    (home / "models" / "ranker" / "2" / file).write_bytes(data)
    assert registry.live("ranker") is None
    assert "version 2 is damaged" in registry.trouble("ranker")
    assert registry.versions("ranker")[0].trouble
    assert registry.rollback("ranker") == 1
    assert registry.trouble("ranker") == ""


# ---- several processes, and kills


def _adding(home: Path, count: int) -> None:
    registry = Registry(home)
    for _ in range(count):
        registry.add("ranker", {"w": os.urandom(200_000)}, {}, live=True)


def test_two_processes_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_adding, args=(tmp_path, 12)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    registry = Registry(tmp_path)
    assert numbers(registry)[0] == 24
    assert registry.live("ranker") is not None
    assert not any(record.trouble for record in registry.versions("ranker"))


def test_killed_at_any_moment_what_is_there_is_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    rng = random.Random(0)
    last = 0
    for _ in range(12):
        process = context.Process(target=_adding, args=(tmp_path, 10_000))
        process.start()
        time.sleep(rng.uniform(0.02, 0.12))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        registry = Registry(tmp_path)
        assert registry.trouble("ranker") == ""
        assert not any(record.trouble for record in registry.versions("ranker"))
        assert max(numbers(registry), default=0) >= last
        last = max(numbers(registry), default=0)
    assert last > 0
    added = registry.add("ranker", FILES, {})
    assert added > last
    # The next one has swept up what the killed ones left.
    left = {path.name for path in (tmp_path / "models" / "ranker").iterdir()}
    assert not [name for name in left if name.startswith((".new-", ".old-"))]


# ---- in an agent


def fitted(people: float) -> Ranker:
    return Ranker({**HAND_SET, "people": people}, -3.0, True, f"fitted {people}")


def test_a_home_of_before_goes_on_and_its_model_is_version_0(tmp_path: Path) -> None:
    document = {
        "weights": dict(fitted(4.0).weights),
        "bias": -3.0,
        "calibrated": True,
        "origin": "old",
        "card": {"n": 1},
    }
    (tmp_path / "ranker.json").write_text(json.dumps(document))
    registry = Registry(tmp_path)
    assert Ranker.load(tmp_path).origin == "old"
    assert registry.names() == ["ranker"]
    (record,) = registry.versions("ranker")
    assert (record.version, record.live, record.card) == (0, True, {"n": 1})
    fitted(5.0).save(tmp_path, {})
    assert Ranker.load(tmp_path).origin == "fitted 5.0"
    assert registry.rollback("ranker") == 0
    assert Ranker.load(tmp_path).origin == "old"
    assert registry.rollback("ranker") is None
    assert Ranker.load(tmp_path) == Ranker()


def test_views_notice_what_another_process_made_live(tmp_path: Path, embedder: HashEmbedder) -> None:
    store = Store(tmp_path)
    try:
        views = Snapshots(store, embedder, "IDMap2,Flat")
        view = views.current()
        assert view.ranker == Ranker()
        fitted(5.0).save(tmp_path, {})
        assert views.current().ranker == fitted(5.0)
        assert views.current().community is view.community  # only the ranker is read again
        Registry(tmp_path).rollback("ranker")
        assert views.current().ranker == Ranker()
    finally:
        store.close()


def test_a_desk_notices_what_another_process_made_live(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    def origin() -> str:
        (stage,) = [each for each in desk_world.last(desk, "w-hotel-date").trace.stages if each.name == "rank"]
        return stage.note

    with desk_world.desk_of(desk_world.home_of(tmp_path_factory, tmp_path / "home")) as desk:
        assert origin() == "set by hand"
        ReplyRanker(origin="another").save(tmp_path / "home", {})
        assert origin() == "another"
        Registry(tmp_path / "home").rollback("replies")
        assert origin() == "set by hand"


def test_the_doctor_tells_what_is_live(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, embedder=EMBEDDER, no_llm=True)
    assert not [check for check in examine(settings) if check.name.startswith("trained")]
    fitted(5.0).save(tmp_path, {})
    (check,) = [check for check in examine(settings) if check.name == "trained ranker"]
    assert (check.ok, check.detail) == (True, "version 1 is live, of 1 trained")
    (tmp_path / "models" / "ranker" / "1" / "ranker.json").write_text("{}")
    (check,) = [check for check in examine(settings) if check.name == "trained ranker"]
    assert not check.ok
    assert "version 1 is damaged" in check.detail


# ---- the commands


def whyfeed(home: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments, "--home", str(home)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands_list_go_back_and_choose(tmp_path: Path) -> None:
    assert json.loads(whyfeed(tmp_path, "versions", "--json")) == {}
    registry = made(tmp_path, 2)
    registry.add("ranker", FILES, {"gate": {"why": "not surely better"}})
    (found,) = json.loads(whyfeed(tmp_path, "versions", "--json")).values()
    assert [(each["version"], each["live"]) for each in found] == [(3, False), (2, True), (1, False)]
    assert found[1]["card"] == {"number": 2}
    text = whyfeed(tmp_path, "versions", "ranker").splitlines()
    assert len(text) == 3
    assert "not surely better" in text[0]
    assert "live" in text[1]
    assert whyfeed(tmp_path, "rollback", "ranker") == "ranker: version 1 is live\n"
    assert json.loads(whyfeed(tmp_path, "rollback", "ranker", "--json")) == {"name": "ranker", "live": None}
    assert "built in" in whyfeed(tmp_path, "versions").splitlines()[0]
    assert whyfeed(tmp_path, "use", "ranker", "3") == "ranker: version 3 is live\n"
    assert whyfeed(tmp_path, "use", "ranker", "built-in") == "ranker: what is built in is live\n"
    assert live(registry) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["rollback", "luck"], DataError),
        (["use", "ranker", "9"], DataError),
        (["use", "ranker", "newest"], ValueError),
        (["versions", "../x"], DataError),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, arguments: list[str], error: type[Exception]) -> None:
    made(tmp_path)
    done = CliRunner().invoke(app, ["models", *arguments, "--home", str(tmp_path)])
    assert isinstance(done.exception, error)
    assert live(Registry(tmp_path)) == 1
