"""A backup holds one moment of a home, is checked before it is used, and is there whole or not at all."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import EMBEDDER, state
from tests.test_kill import Killable, check, confirm
from tests.world import NOW
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.store.backup import VERSION, back_up, restore
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.cli.main import app


def call(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.exception
    return dict(json.loads(done.stdout))


@pytest.fixture
def kept(home: Path) -> Path:
    """The world's home with a trained model, a desk with personal values, a key, and a pending action."""
    from whyfeed import Agent
    from whyfeed.retrieval.store.keys import Keys

    Registry(home).add("poet", {"weights.bin": os.urandom(3000)}, {"gate": {"why": "wins"}}, live=True)
    with Agent.open(home, embedder=EMBEDDER, no_llm=True) as agent:
        Keys(agent.store).add("shop", ["read"])
        turn = {"role": "customer", "text": "My mail is zoe@example.com, my order is late"}
        agent.desk.store.put_conversations([talk("open", turn)])
        agent.feedback("u1", "sailing-3", "like")
    return home


def talk(id: str, *turns: dict[str, Any]) -> Any:
    from whyfeed.retrieval.desk.types import DeskConversation

    return DeskConversation.from_row({"id": id, "status": "waiting", "turns": turns})


def lists(home: Path) -> list[Any]:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.settings import Settings

    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: NOW) as agent:
        answers = [agent.recommend(user, 5).to_json()["items"] for user in ("u1", "u4", "newcomer")]
        replies = agent.desk.store.unmask("open", "[email 1]")
        return [answers, replies, [post.id for post, _ in ((found.post, 0) for found in agent.search("rudder", 5))]]


def failure(work: Callable[[], object]) -> str:
    """What it fails with in a line, "" when it does not fail."""
    try:
        work()
    except (DataError, HomeError) as exc:
        return str(exc)
    return ""


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_restored_home_answers_as_the_old_one_did(kept: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "whyfeed.backup", tmp_path / "restored"
    made = call("backup", str(file), "--home", str(kept))
    assert {"index.faiss", "index.json"} <= {*made["left_out"]}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = call("restore", str(file), "--home", str(other))
    assert (done["home"], done["files"], done["before"]) == (str(other), made["files"], None)
    assert stat.S_IMODE((other / "whyfeed.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    store, restored = Store(kept), check(other)
    assert state(store, "u1", "u4") == state(restored, "u1", "u4")
    store.close()
    restored.close()
    assert lists(other) == lists(kept)
    assert Registry(other).live("poet") is not None
    assert Registry(other).trouble("poet") == ""
    assert leftovers(tmp_path) == []
    assert call("backup", str(file), "--home", str(other))["files"] == made["files"]  # replaces the earlier one


def test_a_home_with_data_is_moved_aside_only_when_told(kept: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "whyfeed.backup", tmp_path / "other"
    back_up(kept, file, NOW, {})
    (tmp_path / "empty").mkdir()
    restore(file, tmp_path / "empty")
    store = Store(other)
    store.append(Event("", "somebody", "p", "like", NOW))
    with pytest.raises(DataError, match="has data"):
        restore(file, other)
    with pytest.raises(HomeError, match="in use"):
        restore(file, other, replace=True)
    store.close()
    before = restore(file, other, replace=True).before
    assert before is not None
    old, new = check(before), check(other)
    assert [event.user for _, event in old.events()] == ["somebody"]
    assert new.events(user="u1")
    old.close()
    new.close()


def test_a_damaged_home_can_be_replaced_but_not_backed_up(kept: Path, tmp_path: Path) -> None:
    file = tmp_path / "whyfeed.backup"
    back_up(kept, file, NOW, {})
    good = file.read_bytes()
    data = bytearray((kept / "whyfeed.db").read_bytes())
    data[8192:12288] = os.urandom(4096)
    (kept / "whyfeed.db").write_bytes(data)
    with pytest.raises(HomeError, match=r"damaged|cannot be copied"):
        back_up(kept, file, NOW, {})
    assert file.read_bytes() == good
    restore(file, kept, replace=True)
    check(kept).close()


@pytest.mark.parametrize("place", ["home", "notes.txt", "missing/whyfeed.backup"])
def test_a_backup_overwrites_nothing_else(kept: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    file = kept / "whyfeed.backup" if place == "home" else tmp_path / place
    with pytest.raises((DataError, HomeError)):
        back_up(kept, file, NOW, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="no home"):
        back_up(tmp_path / "nowhere", tmp_path / "x", NOW, {})
    assert not (tmp_path / "nowhere").exists()


# ---- damaged and forged backups


def test_any_flipped_byte_is_found_or_harmless(kept: Path, tmp_path: Path) -> None:
    file, broken = tmp_path / "whyfeed.backup", tmp_path / "broken"
    back_up(kept, file, NOW, {})
    good, rng = file.read_bytes(), random.Random(0)
    found = 0
    for number in range(40):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        broken.write_bytes(data if number % 4 else good[: rng.randrange(len(good))])
        other = tmp_path / f"restored-{number}"
        said = failure(lambda broken=broken, other=other: restore(broken, other))  # type: ignore[misc]
        assert other.exists() == (said == "")
        if said:
            assert str(broken) in said
            found += 1
        else:
            check(other).close()
    assert found > 30
    assert leftovers(tmp_path) == []


def forged(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def write(file: Path, target: Path) -> None:
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as out:
            manifest = json.loads(source.read("manifest.json"))
            change(manifest)
            for name in source.namelist():
                if name != "manifest.json":
                    new = next((each for each in manifest.get("files", ()) if each.endswith("poet/live.json")), name)
                    out.writestr(new if name.endswith("poet/live.json") else name, source.read(name))
            out.writestr("manifest.json", json.dumps(manifest))

    return write


def _outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../poet/live.json"] = manifest["files"].pop("models/poet/live.json")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_outside, DataError),
        (lambda manifest: manifest["files"]["whyfeed.db"].update(sha256="0" * 64), DataError),
        (lambda manifest: manifest["files"]["whyfeed.db"].update(size=float("inf")), DataError),
        (lambda manifest: manifest.update(version=float("inf")), DataError),
        (lambda manifest: manifest["files"]["whyfeed.db"].update(size=5), DataError),
        (lambda manifest: manifest["files"].pop("models/poet/live.json"), DataError),
        (lambda manifest: manifest.update(version=VERSION + 1), HomeError),
        (lambda manifest: manifest.update(format="other"), DataError),
        (lambda manifest: manifest.clear(), DataError),
    ],
)
def test_a_forged_backup_is_refused(
    kept: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type[Exception]
) -> None:
    back_up(kept, tmp_path / "whyfeed.backup", NOW, {})
    forged(change)(tmp_path / "whyfeed.backup", tmp_path / "forged")
    with pytest.raises(error):
        restore(tmp_path / "forged", tmp_path / "deep" / "restored")
    assert not (tmp_path / "deep" / "restored").exists()
    assert not (tmp_path / "poet").exists()


# ---- under load


def test_a_backup_holds_one_moment_while_others_write(home: Path, tmp_path: Path) -> None:
    """A writer counts in the ledger and then in a second database: no backup may have them apart."""
    store, ending, counted = Store(home), threading.Event(), [0]
    second = home / "actions.db"
    with closing(sqlite3.connect(second)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE counted (number INTEGER)")

    def write() -> None:
        with closing(sqlite3.connect(second, timeout=30, isolation_level=None)) as db:
            while not ending.is_set():
                store.append(Event("", "counter", "p", "like", NOW))
                db.execute("INSERT INTO counted VALUES (1)")
                counted[0] += 1

    def read() -> None:
        while not ending.is_set():
            assert len(list(store.all_posts())) > 50

    threads = [threading.Thread(target=each) for each in (write, read)]
    for thread in threads:
        thread.start()
    seen = []
    try:
        for number in range(5):
            least = counted[0]
            back_up(home, tmp_path / "whyfeed.backup", NOW, {})
            most = counted[0] + 1
            restore(tmp_path / "whyfeed.backup", tmp_path / f"restored-{number}")
            with closing(sqlite3.connect(tmp_path / f"restored-{number}" / "actions.db")) as db:
                (second_count,) = db.execute("SELECT count(*) FROM counted").fetchone()
            restored = check(tmp_path / f"restored-{number}")
            first_count = len(restored.events(user="counter"))
            restored.close()
            assert first_count - second_count in (0, 1)
            assert least <= first_count <= most
            seen.append(first_count)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        store.close()
    assert seen[-1] > seen[0]  # the writer went on


def test_a_version_that_is_deleted_meanwhile_starts_the_backup_again(kept: Path, tmp_path: Path) -> None:
    registry, ending = Registry(kept), threading.Event()

    def train() -> None:
        while not ending.is_set():
            registry.add("poet", {"weights.bin": os.urandom(200_000)}, {}, live=True)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for number in range(5):
            if said := failure(lambda: back_up(kept, tmp_path / "whyfeed.backup", NOW, {})):
                assert "kept changing" in said
                continue
            restore(tmp_path / "whyfeed.backup", tmp_path / f"restored-{number}")
            assert Registry(tmp_path / f"restored-{number}").trouble("poet") == ""
    finally:
        ending.set()
        thread.join()


# ---- killed


def back_up_again(log: str, home: str, file: str) -> None:
    confirm(log, "begin")
    back_up(Path(home), Path(file), NOW, {})
    confirm(log, "done")


def restore_into(log: str, file: str, home: str, replace: bool) -> None:
    confirm(log, "begin")
    restore(Path(file), Path(home), replace=replace)
    confirm(log, "done")


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_while_backing_up(processes: BaseContext, kept: Path, tmp_path: Path, times: int) -> None:
    killable, file, rng = Killable(processes, tmp_path / "log"), tmp_path / "whyfeed.backup", random.Random(1)
    Registry(kept).add("large", {"weights.bin": os.urandom(8_000_000)}, {}, live=True)
    longest = killable.whole(back_up_again, str(kept), str(file))
    for number in range(times):
        if number % 2:
            file.unlink(missing_ok=True)
        there = file.exists()
        confirmed = killable.kill(rng.uniform(0, longest), back_up_again, str(kept), str(file))
        assert file.exists() or not (confirmed or there)
        if file.exists():
            restore(file, tmp_path / f"restored-{number}")
            check(tmp_path / f"restored-{number}").close()
            assert Registry(tmp_path / f"restored-{number}").trouble("large") == ""
        check(kept).close()
    back_up(kept, file, NOW, {})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("replace", [False, True])
def test_killed_while_restoring(
    processes: BaseContext, kept: Path, tmp_path: Path, times: int, replace: bool
) -> None:  # fmt: skip
    killable, file, rng = Killable(processes, tmp_path / "log"), tmp_path / "whyfeed.backup", random.Random(2)
    Registry(kept).add("large", {"weights.bin": os.urandom(8_000_000)}, {}, live=True)
    back_up(kept, file, NOW, {})
    longest = killable.whole(restore_into, str(file), str(tmp_path / "whole"), False)
    for number in range(times):
        other = tmp_path / f"restored-{number}"
        if replace:
            store = Store(other)
            store.append(Event("", "somebody", "p", "like", NOW))
            store.close()
        confirmed = killable.kill(rng.uniform(0, longest), restore_into, str(file), str(other), replace)
        assert other.exists() or not (confirmed or replace)
        for whole in tmp_path.glob(f"restored-{number}*"):
            store = check(whole)
            old = [event.user for _, event in store.events()] == ["somebody"]
            store.close()
            assert old or Registry(whole).trouble("large") == ""
        restore(file, other, replace=other.exists())
        check(other).close()
    assert leftovers(tmp_path) == []
