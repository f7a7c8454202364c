"""The store: nothing confirmed is ever lost, what is forgotten is gone, and damage is said in one line."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlite_utils import Database as SqliteDatabase

from tests.conftest import state
from tests.world import NOW, START, World, write_rows
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.errors import DataError, HomeError, UnknownPost, UnknownUser
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.conversations import TRACES_KEPT, Conversations
from whyfeed.retrieval.store.exchange import import_folder
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.user import User


def like(user: str, post: str = "sailing-0", kind: str = "like", time: float | None = NOW) -> Event:
    return Event("", user, post, kind, time)


# ---- writing


def test_the_file_is_written_ahead_and_flushed_at_every_commit(empty_store: Store) -> None:
    connection = empty_store.database.connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_threads_lose_no_events(empty_store: Store) -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def append(number: int) -> None:
        made[number] = [empty_store.append(like(f"u{number}", f"p{place}")).id for place in range(50)]

    threads = [threading.Thread(target=append, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    confirmed = {(id, f"u{number}", f"p{place}") for number, ids in enumerate(made) for place, id in enumerate(ids)}
    assert len(confirmed) == 400
    assert {(event.id, event.user, event.post) for _, event in empty_store.events()} == confirmed


def append_at_once(home: str, user: str, count: int, barrier: Any, confirmed: Any) -> None:
    """What one process does: open the home when all are ready, and append."""
    barrier.wait()
    store = Store(Path(home))
    confirmed.send([store.append(like(user, f"p{place}")).id for place in range(count)])
    store.close()


def test_processes_that_make_and_fill_a_home_at_once_lose_nothing(processes: BaseContext, tmp_path: Path) -> None:
    for attempt in range(5):
        home = tmp_path / f"home-{attempt}"
        barrier = processes.Barrier(3)
        pipes = [processes.Pipe(duplex=False) for _ in range(3)]
        workers = [
            processes.Process(target=append_at_once, args=(str(home), f"u{number}", 15, barrier, sender))  # type: ignore[attr-defined]
            for number, (_, sender) in enumerate(pipes)
        ]
        for worker in workers:
            worker.start()
        ids = [id for receiver, _ in pipes for id in (receiver.recv() if receiver.poll(60) else [])]
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        for pipe in pipes:
            for end in pipe:
                end.close()
        with contextlib.closing(Store(home)) as store:
            assert len(ids) == len(set(ids)) == 45
            assert {event.id for _, event in store.events()} == set(ids)


def test_a_reader_goes_on_while_another_connection_writes(home: Path, store: Store) -> None:
    before = len(store.events())
    with store.database.write():
        store.append(like("u0"))
        other = Store(home)
        assert len(other.events()) == before
        other.close()
    assert len(store.events()) == before + 1


def test_a_failed_transaction_leaves_nothing_behind(store: Store) -> None:
    before = store.events()

    def fail(error: BaseException) -> None:
        with store.database.write():
            store.append(like("u0"))
            with store.database.write():
                store.append(like("u1"))
            raise error

    for error in (RuntimeError("stop"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
    assert store.events() == before
    store.append(like("u0"))
    assert len(store.events()) == len(before) + 1


def test_an_inner_failure_that_is_caught_takes_only_the_inner_step_back(store: Store) -> None:
    before = len(store.events())
    with store.database.write():
        store.append(like("u0"))
        with contextlib.suppress(RuntimeError), store.database.write():
            store.append(like("u1"))
            raise RuntimeError("stop")
    assert [event.user for _, event in store.events()[before:]] == ["u0"]


# ---- homes that cannot be used


def test_a_home_of_a_newer_version_is_refused_in_one_line(home: Path) -> None:
    db = SqliteDatabase(sqlite3.connect(home / "whyfeed.db"))
    db["_sqlite_migrations"].insert({"migration_set": "whyfeed", "name": "m999_tomorrow", "applied_at": "later"})  # type: ignore[union-attr]
    db.conn.commit()
    db.conn.close()
    with pytest.raises(HomeError, match=r"newer whyfeed \(m999_tomorrow\); update") as caught:
        Store(home)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "header", "cut"])
def test_a_damaged_file_is_said_in_one_line(home: Path, damage: str) -> None:
    path = home / "whyfeed.db"
    data = path.read_bytes()
    for beside in home.glob("whyfeed.db-*"):
        beside.unlink()
    path.write_bytes(
        {"text": b"this is no database " * 500, "header": b"\0" * 100 + data[100:], "cut": data[: len(data) // 3]}[
            damage
        ]
    )

    def use() -> None:
        with contextlib.closing(Store(home)) as opened:
            Community.load(opened, HashEmbedder(64))

    with pytest.raises(HomeError, match="damaged") as caught:
        use()
    assert "\n" not in str(caught.value)


def test_a_file_where_the_home_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(HomeError, match="cannot make the home folder"):
        Store(tmp_path / "home")
    with pytest.raises(HomeError, match="cannot make the home folder"):
        Store(tmp_path / "home" / "below")


def test_a_folder_where_the_file_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "home" / "whyfeed.db").mkdir(parents=True)
    with pytest.raises(HomeError, match=r"whyfeed\.db: unable to open"):
        Store(tmp_path / "home")


def test_opening_a_home_again_changes_nothing(home: Path) -> None:
    store = Store(home)
    events, generation = store.events(), store.generation()
    store.close()
    store = Store(home)
    assert (store.events(), store.generation()) == (events, generation)
    store.close()


# ---- posts and users


def test_unknown_ids_have_errors_of_their_own(store: Store) -> None:
    with pytest.raises(UnknownPost, match="'nothing'"):
        store.post("nothing")
    with pytest.raises(UnknownUser, match="'nobody'"):
        store.user("nobody")
    store.append(like("seen-only-here"))
    assert store.user("seen-only-here") == User("seen-only-here")
    assert store.posts(["nothing", "sailing-0"]).keys() == {"sailing-0"}
    assert len(store.posts([f"none-{number}" for number in range(2000)] + ["clocks-1"])) == 1


def test_a_removed_post_is_gone_from_catalogue_and_search_but_not_from_the_ledger(store: Store, world: World) -> None:
    acts = [event for _, event in store.events() if event.post == "sailing-3"]
    assert acts
    store.remove_posts(["sailing-3"])
    assert "sailing-3" not in {post.id for post in store.all_posts()}
    nums = {row[0] for row in store.post_rows()}
    assert {num for num, _ in store.search("keel mast rudder jib spinnaker mooring", 100)} <= nums
    assert [event for _, event in store.events() if event.post == "sailing-3"] == acts
    community = Community.load(store, HashEmbedder(64))
    assert "sailing-3" not in community.row_of
    assert len(community) == len(world.posts) - 1


# ---- the full-text index


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("园艺", "gardening-zh-0"),
        ("钟表", "clocks-zh-0"),
        ("番茄", "gardening-zh-1"),
        ("发条", "clocks-zh-3"),
        ("土壤改良", "gardening-zh-2"),
        ("sextants", "odd-product"),
        ("Spinnakers", "sailing-twin-a"),
        ("jamming", "sailing-twin-a"),
        ("SPINNAKER", "sailing-twin-b"),
    ],
)
def test_words_are_found_in_both_languages_and_in_other_forms(store: Store, query: str, found: str) -> None:
    assert found in {store_id(store, num) for num, _ in store.search(query, 20)}


def store_id(store: Store, num: int) -> str:
    return {row[0]: row[1] for row in store.post_rows()}[num]


def test_the_best_match_comes_first_and_counts_more(store: Store) -> None:
    hits = store.search("spinnaker halyard jams", 20)
    assert {store_id(store, num) for num, _ in hits[:2]} == {"sailing-twin-a", "sailing-twin-b"}
    scores = [score for _, score in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0


@given(st.text(max_size=60))
@example('"')
@example("AND OR NOT NEAR(a b) title:x -y ^z *")
@example("½ ² ① ٣ e\u0301 \U0001f600")
@example("\u00ad\u200b")
def test_no_words_whatsoever_upset_the_search(store: Store, text: str) -> None:
    for num, score in store.search(text, 5):
        assert num > 0
        assert np.isfinite(score)


# ---- the ledger


def test_numbers_are_never_used_again(store: Store) -> None:
    first = store.append(like("u0"))
    store.forget("u0", [first.id])
    second = store.append(like("u0"))
    store.erase("u0")
    third = store.append(like("u0"))
    numbers = [int(event.id[1:]) for event in (first, second, third)]
    assert numbers == sorted(set(numbers))
    assert [event.id for _, event in store.events(user="u0")] == [third.id]


def test_events_of_one_user_or_after_a_number(store: Store) -> None:
    everything = store.events()
    middle = everything[len(everything) // 2][0]
    assert store.events(after=middle) == [item for item in everything if item[0] > middle]
    assert store.events(user="u3") == [item for item in everything if item[1].user == "u3"]
    assert store.events(user="u3", after=middle) == [item for item in store.events(user="u3") if item[0] > middle]
    assert store.event("u3", store.events(user="u3")[0][1].id) == store.events(user="u3")[0][1]
    assert store.event("u4", store.events(user="u3")[0][1].id) is None


def test_nobody_can_forget_what_another_did(store: Store) -> None:
    before = store.events()
    store.forget("u4", [event.id for _, event in store.events(user="u3")])
    assert store.events() == before


def test_forgetting_takes_what_speaks_of_the_event_with_it(store: Store) -> None:
    talks = Conversations(store)
    event = store.append(like("u0"))
    other = store.append(like("u0"))
    for spoken in (event, other):
        talks.remember("u0", NOW, {"because": [spoken.id]})
    talk = talks.start("u0", NOW)
    talks.add(talk, "user", "what should I read?", NOW)
    talks.add(talk, "agent", "Because you liked …", NOW, {"evidence": {"id": event.id}})
    talks.add(talk, "agent", "Because you liked another …", NOW, {"evidence": {"id": other.id}})
    store.forget("u0", [event.id])
    assert talks.traces("u0") == [{"because": [other.id]}]
    assert [turn.answer for turn in talks.turns(talk)] == [None, None, {"evidence": {"id": other.id}}]


# ---- forgetting leaves the state of never having seen


def undate(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key not in ("time", "created_at")} for row in rows]


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("which", ["imported", "appended", "hidden"])
def test_forgetting_an_event_is_never_having_seen_it(tmp_path: Path, world: World, dated: bool, which: str) -> None:
    posts = world.posts if dated else undate(world.posts)
    acts = world.interactions if dated else undate(world.interactions)
    place = next(n for n, row in enumerate(world.interactions) if n > 40 and row["user"] == "u2")
    write_rows(tmp_path / "all" / "posts.jsonl", posts)
    write_rows(tmp_path / "all" / "interactions.jsonl", acts)
    write_rows(tmp_path / "less" / "posts.jsonl", posts)
    write_rows(tmp_path / "less" / "interactions.jsonl", acts[:place] + acts[place + 1 :])
    store, never = Store(tmp_path / "home"), Store(tmp_path / "never")
    import_folder(store, tmp_path / "all")
    import_folder(never, tmp_path / ("less" if which == "imported" else "all"))
    if which == "imported":
        gone = store.events()[place][1]
    else:
        gone = store.append(like("u2", "sailing-1", "like" if which == "appended" else "hide", NOW if dated else None))
    later = like("u2", "clocks-2", "comment", NOW if dated else None)
    store.append(later)
    never.append(later)
    assert state(store, "u2", "u3") != state(never, "u2", "u3")
    store.forget("u2", [gone.id])
    assert state(store, "u2", "u3") == state(never, "u2", "u3")
    store.close()
    never.close()


def test_erasing_a_user_is_never_having_met_them(tmp_path: Path, world: World) -> None:
    def without(rows: list[dict[str, object]], *keys: str) -> list[dict[str, object]]:
        return [row for row in rows if all(row[key] != "u5" for key in keys)]

    reduced = World(
        world.posts, without(world.users, "id"), without(world.interactions, "user"),
        without(world.follows, "from", "to"), world.links,
    )  # fmt: skip
    store, never = Store(tmp_path / "home"), Store(tmp_path / "never")
    import_folder(store, world.write(tmp_path / "all"))
    import_folder(never, reduced.write(tmp_path / "less"))
    talks = Conversations(store)
    talk = talks.start("u5", NOW)
    talks.add(talk, "user", "my secret", NOW)
    talks.remember("u5", NOW, {"shown": []})
    store.keep("judgement", "u5|x|y", {"p": 0.5})
    store.keep("judgement", "u50|x|y", {"p": 0.5})
    store.put_follows([("u6", "u5", 1.0)])
    store.erase("u5")
    assert state(store, "u2", "u6") == state(never, "u2", "u6")
    assert {user.id for user in store.all_users()} == {user.id for user in never.all_users()}
    with pytest.raises(UnknownUser):
        store.user("u5")
    assert talks.of("u5") == []
    assert talks.turns(talk) == []
    assert talks.traces("u5") == []
    assert store.kept("judgement", "u5|x|y") is None
    assert store.kept("judgement", "u50|x|y") == {"p": 0.5}
    store.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    never.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda store, folder: import_folder(store, folder),
        lambda store, _: store.forget("u0", ["e1"]),
        lambda store, _: store.erase("u0"),
        lambda store, _: store.remove_posts(["sailing-0"]),
    ],
    ids=["import", "forget", "erase", "remove"],
)
def test_whatever_is_no_append_raises_the_generation(
    store: Store, exchange_folder: Path, change: Callable[[Store, Path], object]
) -> None:
    before = store.generation()
    store.append(like("u0"))
    assert store.generation() == before
    change(store, exchange_folder)
    assert store.generation() > before


# ---- vectors, kept documents, conversations


def test_vectors_are_kept_by_model(store: Store) -> None:
    nums = [row[0] for row in store.post_rows()][:3]
    vectors = HashEmbedder(8).encode(["a", "b", "c"])
    store.put_vectors("other", [(num, "digest") for num in nums], vectors)
    kept, digests, matrix = store.vectors("other", 8)
    assert kept == nums
    assert digests == ["digest"] * 3
    assert np.allclose(matrix, vectors, atol=1e-3)
    assert len(store.vectors("hash-64", 64)[0]) == len(store.post_rows())
    assert store.vectors("unknown", 8)[2].shape == (0, 8)


def test_a_conversation_belongs_to_one_user(store: Store) -> None:
    talks = Conversations(store)
    mine = talks.start("u0", START)
    talks.check(mine, "u0")
    for id, user in ((mine, "u1"), ("guessed", "u0")):
        with pytest.raises(DataError, match="has no conversation"):
            talks.check(id, user)
    talks.add(mine, "user", "hello", START)
    talks.add(mine, "agent", "hi", START + 1, {"items": []})
    second = talks.start("u0", START + 2)
    assert talks.of("u0") == [(second, "", START + 2), (mine, "hello", START + 1)]
    assert talks.of("u1") == []
    assert [(turn.role, turn.text, turn.answer) for turn in talks.turns(mine)] == [
        ("user", "hello", None), ("agent", "hi", {"items": []}),
    ]  # fmt: skip
    assert [turn.text for turn in talks.turns(mine, 1)] == ["hi"]


def test_the_last_traces_of_each_user_are_kept(store: Store) -> None:
    talks = Conversations(store)
    talks.remember("u1", START, {"number": -1})
    for number in range(TRACES_KEPT + 5):
        talks.remember("u0", START, {"number": number})
    assert [trace["number"] for trace in talks.traces("u0")] == list(range(TRACES_KEPT + 4, 4, -1))
    assert talks.traces("u1") == [{"number": -1}]


def test_what_is_kept_is_replaced(store: Store) -> None:
    assert store.kept("clause", "p") is None
    store.keep("clause", "p", {"text": "旧"})
    store.keep("clause", "p", {"text": "新"})
    assert store.kept("clause", "p") == {"text": "新"}


def test_post_and_event_give_their_rows_back() -> None:
    row = {
        "id": "p", "kind": "video", "title": "T", "text": "X", "url": "https://e.org", "author": "a", "community": "c",
        "tags": ["x", "y"], "language": "en", "created_at": "2020-01-01T00:00:00.000Z", "image": "i", "votes": 3,
    }  # fmt: skip
    assert Post.from_row(row).to_row() == row
    act = {"user": "u", "kind": "rate", "time": 5.0, "post": "p", "value": 4.0, "text": "good"}
    assert Event.from_row(act).to_row() == act


@pytest.mark.parametrize(
    ("kind", "value", "weight"),
    [("like", None, 1.0), ("hide", None, -1.0), ("view", None, 0.2), ("rate", 5, 1.0), ("rate", 2.5, 0.0),
     ("rate", 0, -1.0), ("rate", 99, 1.0), ("rate", None, 1.0), ("exclude", None, 0.0), ("odd", None, 0.0)],
)  # fmt: skip
def test_what_an_act_says_about_interest(kind: str, value: float | None, weight: float) -> None:
    assert Event("e", "u", "p", kind, value=value).weight == weight


def test_a_copied_home_is_the_same_home(home: Path, tmp_path: Path, store: Store) -> None:
    with store.database.write():
        store.append(like("u0"))
    store.close()
    copied = Store(Path(shutil.copytree(home, tmp_path / "copy")))
    assert [event.user for _, event in copied.events()][-1] == "u0"
    copied.close()


def read_for_ever(store: Store, begun: threading.Barrier) -> None:
    begun.wait()
    while True:
        store.search("foam", 50)


def test_a_store_is_closed_while_other_threads_read(tmp_path: Path) -> None:
    """SQLite ends the process where a connection is closed under a statement that runs."""
    for round in range(5):
        store = Store(tmp_path / str(round))
        store.put_posts(Post(f"p{place}", title="Stouts foam", text="foam and beer " * 50) for place in range(300))
        begun = threading.Barrier(4)
        with ThreadPoolExecutor(3) as pool:
            reading = [pool.submit(read_for_ever, store, begun) for _ in range(3)]
            begun.wait()
            store.close()
        for each in reading:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                each.result()
