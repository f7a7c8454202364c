"""The exchange format: what is imported, what is left out and said, and what comes back out."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.world import World
from whyfeed.retrieval.clock import format_time, parse_time
from whyfeed.retrieval.errors import DataError, HomeError, UnknownUser
from whyfeed.retrieval.event import STEERING, Event
from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.retrieval.store.exchange import FILES, export_user, import_folder
from whyfeed.retrieval.store.store import Store

DEEP = "[" * 400 + "]" * 400


def contents(store: Store) -> dict[str, list[Any]]:
    """Everything that an import writes, as plain rows; numbers and ids of events included."""
    return {
        "posts": [(row[0], post.to_row()) for row, post in zip(store.post_rows(), store.all_posts(), strict=True)],
        "users": [user.to_row() for user in store.all_users()],
        "events": [(num, event.id, event.to_row()) for num, event in store.events()],
        "follows": sorted(store.follows()),
        "links": store.links(),
    }


def write_lines(folder: Path, name: str, *lines: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass") for line in lines]
    (folder / f"{name}.jsonl").write_bytes(b"\n".join(raw) + b"\n")
    return folder


def rejected(store: Store, folder: Path) -> list[dict[str, Any]]:
    """Import, and return the lines of the rejects file."""
    report = import_folder(store, folder)
    if report.rejects is None:
        assert all(count.rejected == 0 for count in report.counts.values())
        return []
    rows = [json.loads(line) for line in report.rejects.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == sum(count.rejected for count in report.counts.values())
    return rows


# ---- what is imported


@pytest.mark.parametrize("gz", [False, True])
def test_the_world_is_imported_completely(empty_store: Store, tmp_path: Path, world: World, gz: bool) -> None:
    report = import_folder(empty_store, world.write(tmp_path / "in", gz=gz))
    assert report.rejects is None
    for name in FILES:
        rows = len(getattr(world, name, ()))  # the world has no service desk
        assert report.to_json()[name] == {"read": rows, "kept": rows, "rejected": 0}, name
    assert [post.id for post in empty_store.all_posts()] == [row["id"] for row in world.posts]
    assert [event.to_row() | {"time": event.time} for _, event in empty_store.events()] == world.interactions
    assert empty_store.post("sailing-0").attributes == {"votes": world.posts[1]["votes"]}
    assert sorted(empty_store.follows()) == [(row["from"], row["to"], row["weight"]) for row in world.follows]
    assert empty_store.links() == [(row["head"], row["relation"], row["tail"]) for row in world.links]


def test_plain_and_gzipped_folders_give_the_same_home(tmp_path: Path, world: World) -> None:
    homes = []
    for gz in (False, True):
        store = Store(tmp_path / f"home-{gz}")
        import_folder(store, world.write(tmp_path / f"in-{gz}", gz=gz))
        homes.append(contents(store))
        store.close()
    assert homes[0] == homes[1]


def test_importing_again_changes_nothing(store: Store, exchange_folder: Path) -> None:
    before = contents(store)
    report = import_folder(store, exchange_folder)
    assert report.rejects is None
    assert contents(store) == before


def test_the_same_act_twice_is_two_events_however_often_it_is_imported(empty_store: Store, tmp_path: Path) -> None:
    row = '{"user": "u", "post": "p", "kind": "view", "time": 5}'
    folder = write_lines(tmp_path / "in", "posts", '{"id": "p"}')
    write_lines(folder, "interactions", row, row)
    import_folder(empty_store, folder)
    import_folder(empty_store, folder)
    assert len(empty_store.events()) == 2


def test_a_changed_post_replaces_the_old_one_and_keeps_its_number(empty_store: Store, tmp_path: Path) -> None:
    import_folder(
        empty_store, write_lines(tmp_path / "in", "posts", '{"id": "p", "title": "Barometer"}', '{"id": "q"}')
    )
    import_folder(empty_store, write_lines(tmp_path / "in", "posts", '{"id": "p", "title": "Thermometer"}'))
    assert [(row[0], row[1]) for row in empty_store.post_rows()] == [(1, "p"), (2, "q")]
    assert empty_store.search("barometer", 5) == []
    assert [num for num, _ in empty_store.search("thermometer", 5)] == [1]


def test_posts_may_come_in_a_later_folder_than_users(empty_store: Store, tmp_path: Path) -> None:
    import_folder(empty_store, write_lines(tmp_path / "one", "users", '{"id": "u"}'))
    import_folder(empty_store, write_lines(tmp_path / "two", "posts", '{"id": "p"}'))
    act = '{"user": "u", "post": "p", "kind": "like"}'
    assert rejected(empty_store, write_lines(tmp_path / "three", "interactions", act)) == []
    assert [event.post for _, event in empty_store.events()] == ["p"]


def test_byte_order_mark_and_empty_lines_are_no_rows(empty_store: Store, tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "in", "posts", b'\xef\xbb\xbf{"id": "p"}', b"", b"   ", b'{"id": "q"}\r', b"")
    report = import_folder(empty_store, folder)
    assert report.to_json()["posts"] == {"read": 2, "kept": 2, "rejected": 0}


def test_steering_needs_no_post(empty_store: Store, tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "in", "posts", '{"id": "p"}')
    write_lines(folder, "interactions", '{"user": "u", "kind": "exclude", "text": "brewing"}')
    assert rejected(empty_store, folder) == []
    assert [(event.kind, event.post, event.text) for _, event in empty_store.events()] == [("exclude", "", "brewing")]


# ---- what is left out, and said

BAD_ROWS = {
    "not JSON": ("posts", "{nope", "not JSON"),
    "half a row": ("posts", '{"id": "x", "title": "cut', "not JSON"),
    "a list": ("posts", '["id"]', "not a JSON object"),
    "a number": ("posts", "7", "not a JSON object"),
    "null": ("posts", "null", "not a JSON object"),
    "NaN": ("posts", '{"id": "x", "score": NaN}', "NaN"),
    "Infinity": ("interactions", '{"user": "u", "post": "ok", "kind": "rate", "value": Infinity}', "Infinity"),
    "too large for a float": ("interactions", '{"user": "u", "post": "ok", "kind": "rate", "value": 1e999}', "large"),
    "too large an integer": ("interactions", f'{{"user":"u","post":"ok","kind":"rate","value":1{"0" * 400}}}', "large"),
    "endless integer": ("posts", f'{{"id": "x", "n": 1{"0" * 5000}}}', "not JSON"),
    "invalid UTF-8": ("posts", b'{"id": "x", "title": "\xff\xfe"}', "UTF-8"),
    "UTF-16": ("posts", '{"id": "x"}'.encode("utf-16"), "UTF-8"),
    "nested without end": ("posts", '{"id": "x", "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON"),
    "nested too deep": ("posts", f'{{"id": "x", "a": {DEEP}}}', "nested more"),
    "post without id": ("posts", '{"title": "x"}', "id is missing"),
    "empty id": ("posts", '{"id": "  "}', "id is empty"),
    "id of control characters": ("posts", '{"id": "\\u0000\\u0001"}', "id is empty"),
    "id null": ("posts", '{"id": null}', "id is missing"),
    "id true": ("posts", '{"id": true}', "not a string"),
    "id a list": ("posts", '{"id": ["x"]}', "not a string"),
    "id a fraction": ("posts", '{"id": 1.5}', "not a string"),
    "id of 201 characters": ("posts", json.dumps({"id": "x" * 201}), "longer than 200"),
    "id long after a gap": ("posts", json.dumps({"id": "x" + " " * 250 + "y"}), "longer than 200"),
    "unknown kind": ("posts", '{"id": "x", "kind": "spaceship"}', "spaceship"),
    "kind a list": ("posts", '{"id": "x", "kind": ["post"]}', "is none of"),
    "tags a number": ("posts", '{"id": "x", "tags": 5}', "not a list"),
    "tags an object": ("posts", '{"id": "x", "tags": {"a": 1}}', "not a list"),
    "bad time": ("posts", '{"id": "x", "created_at": "yesterday"}', "yesterday"),
    "time true": ("posts", '{"id": "x", "created_at": true}', "neither ISO 8601"),
    "time a list": ("posts", '{"id": "x", "created_at": [1]}', "neither ISO 8601"),
    "time infinite": ("posts", '{"id": "x", "created_at": "inf"}', "not finite"),
    "user without id": ("users", '{"name": "x"}', "id is missing"),
    "user id too long": ("users", json.dumps({"id": "x" * 201}), "longer than 200"),
    "event without user": ("interactions", '{"post": "ok", "kind": "like"}', "user is missing"),
    "event without post": ("interactions", '{"user": "u", "kind": "like"}', "post is missing"),
    "event of an unknown post": ("interactions", '{"user": "u", "post": "no", "kind": "like"}', "unknown post 'no'"),
    "event without kind": ("interactions", '{"user": "u", "post": "ok"}', "kind is missing"),
    "value a word": ("interactions", '{"user": "u", "post": "ok", "kind": "rate", "value": "5"}', "not a number"),
    "value true": ("interactions", '{"user": "u", "post": "ok", "kind": "rate", "value": true}', "not a number"),
    "event time": ("interactions", '{"user": "u", "post": "ok", "kind": "like", "time": "2020-13-01"}', "2020-13-01"),
    "edge without end": ("follows", '{"from": "u"}', "to is missing"),
    "edge of no weight": ("follows", '{"from": "u", "to": "v", "weight": 0}', "not a positive number"),
    "edge weight a word": ("follows", '{"from": "u", "to": "v", "weight": "1"}', "not a positive number"),
    "edge weight null": ("follows", '{"from": "u", "to": "v", "weight": null}', "not a positive number"),
    "link without tail": ("links", '{"head": "ok", "relation": "about"}', "tail is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_said_and_the_rest_is_imported(empty_store: Store, tmp_path: Path, name: str) -> None:
    file, line, cause = BAD_ROWS[name]
    good = {
        "posts": '{"id": "ok", "title": "Fine"}',
        "users": '{"id": "u"}',
        "interactions": '{"user": "u", "post": "ok", "kind": "like", "time": 1}',
        "follows": '{"from": "u", "to": "v", "weight": 2}',
        "links": '{"head": "ok", "relation": "about", "tail": "t"}',
    }
    folder = tmp_path / "in"
    for each, row in good.items():
        write_lines(folder, each, *([row, "", line] if each == file else [row]))
    rows = rejected(empty_store, folder)
    assert [(row["file"], row["line"]) for row in rows] == [(f"{file}.jsonl", 3)]
    assert cause in rows[0]["cause"]
    assert {name: len(kept) for name, kept in contents(empty_store).items()} == {
        "posts": 1, "users": 1, "events": 1, "follows": 1, "links": 1,
    }  # fmt: skip


def test_all_bad_rows_together_are_all_said(empty_store: Store, tmp_path: Path) -> None:
    folder = write_lines(
        tmp_path / "in", "posts", '{"id": "ok"}', *(row for file, row, _ in BAD_ROWS.values() if file == "posts")
    )
    for name in FILES[1:]:
        write_lines(folder, name, *(row for file, row, _ in BAD_ROWS.values() if file == name))
    assert len(rejected(empty_store, folder)) == len(BAD_ROWS)
    assert [post.id for post in empty_store.all_posts()] == ["ok"]


@pytest.mark.parametrize("depth", [49, 51, 900, *range(980, 1000, 3)])
def test_no_depth_of_nesting_stops_an_import_or_a_reader(empty_store: Store, tmp_path: Path, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    folder = write_lines(
        tmp_path / "in", "posts", '{"id": "ok"}', f'{{"id": "x", "a": {nested}}}', f'{{"id": 1.5, "a": {nested}}}'
    )
    rejects = rejected(empty_store, folder)
    found = [post.id for post in empty_store.all_posts()]
    assert found == ["ok", "x"][: 3 - len(rejects)]

    def deeper(levels: int) -> int:
        # A request reads the post from further down the stack than the import did.
        return len(list(empty_store.all_posts())) if levels == 0 else deeper(levels - 1)

    assert deeper(200) == len(found)


@pytest.mark.parametrize(
    "row",
    [
        '{"id": "p", "title": "cut \\ud83d emoji", "text": "\\ude00", "tags": ["\\ud83d", "ok"]}',
        '{"id": "p", "note": "cut \\ud83d emoji", "more": {"deep\\ud83d": ["\\udc00"]}}',
    ],
)
def test_half_an_emoji_costs_neither_the_row_nor_the_import(empty_store: Store, tmp_path: Path, row: str) -> None:
    folder = write_lines(tmp_path / "in", "posts", row, '{"id": "q"}')
    write_lines(folder, "interactions", '{"user": "u", "post": "p", "kind": "comment", "text": "\\ud83d", "time": 1}')
    write_lines(folder, "users", '{"id": "u", "name": "\\ud83d", "mood": "\\ud83d"}')
    assert rejected(empty_store, folder) == []
    json.dumps(contents(empty_store), ensure_ascii=False).encode("utf-8")
    assert {file.name for file in export_user(empty_store, "u", tmp_path / "out").iterdir()} >= {"posts.jsonl"}


def test_a_long_bad_row_still_gives_readable_rejects(empty_store: Store, tmp_path: Path) -> None:
    folder = write_lines(
        tmp_path / "in", "posts", json.dumps({"id": "x", "kind": "spaceship", "text": "long " * 40_000})
    )
    (row,) = rejected(empty_store, folder)
    assert row["file"] == "posts.jsonl"
    assert "spaceship" in row["cause"]
    assert len(json.dumps(row)) < 20_000


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_gz_keeps_what_could_be_read(empty_store: Store, tmp_path: Path, world: World, cut: float) -> None:
    folder = world.write(tmp_path / "in", gz=True)
    whole = (folder / "posts.jsonl.gz").read_bytes()
    (folder / "posts.jsonl.gz").write_bytes(whole[: int(len(whole) * cut)])
    report = import_folder(empty_store, folder)
    count = report.counts["posts"]
    assert count.rejected == 1
    assert count.kept == len(list(empty_store.all_posts())) <= len(world.posts)
    assert report.rejects is not None
    rows = [json.loads(line) for line in report.rejects.read_text().splitlines()]
    (row,) = [row for row in rows if row["file"] == "posts.jsonl.gz"]
    assert row["line"] == count.kept + 1
    assert "damaged" in row["cause"]


def test_a_gz_that_is_none_is_said(empty_store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "posts.jsonl.gz").write_bytes(b'{"id": "p"}\n')
    (row,) = rejected(empty_store, tmp_path / "in")
    assert (row["file"], row["line"]) == ("posts.jsonl.gz", 1)


def test_a_flipped_byte_in_a_gz_never_stops_the_import(empty_store: Store, tmp_path: Path, world: World) -> None:
    folder = world.write(tmp_path / "in", gz=True)
    whole = bytearray((folder / "posts.jsonl.gz").read_bytes())
    for place in range(0, len(whole), len(whole) // 40):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        (folder / "posts.jsonl.gz").write_bytes(damaged)
        report = import_folder(empty_store, folder)
        assert report.counts["users"].kept == len(world.users)


def test_each_import_has_a_rejects_file_of_its_own(empty_store: Store, tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "in", "posts", "{", '{"id": "p"}')
    first, second = import_folder(empty_store, folder).rejects, import_folder(empty_store, folder).rejects
    assert first is not None
    assert second is not None
    assert first != second
    assert sorted((empty_store.home / "rejects").iterdir()) == sorted([first, second])


def test_two_imports_at_once_in_one_process_do_not_mix_their_rejects(empty_store: Store, tmp_path: Path) -> None:
    folders = [
        write_lines(tmp_path / f"{number}" / "in", "posts", *[f'{{"id": {number}.5}}'] * 200, f'{{"id": {number}}}')
        for number in range(4)
    ]
    reports: list[Any] = [None] * 4

    def run(number: int) -> None:
        reports[number] = import_folder(empty_store, folders[number])

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, report in enumerate(reports):
        lines = [json.loads(line) for line in report.rejects.read_text().splitlines()]
        assert [line["row"]["id"] for line in lines] == [number + 0.5] * 200
    assert len(list((empty_store.home / "rejects").iterdir())) == 4


# ---- folders that cannot be imported


def test_a_folder_without_known_files_is_one_clear_error(empty_store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"in' has none of posts\.jsonl"):
        import_folder(empty_store, tmp_path / "in")


@pytest.mark.parametrize("name", ["file.jsonl", "nothing"])
def test_a_file_or_nothing_instead_of_a_folder_is_one_clear_error(
    empty_store: Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file.jsonl").write_text('{"id": "p"}\n')
    with pytest.raises(DataError, match="is not a folder"):
        import_folder(empty_store, tmp_path / name)


def test_nothing_is_kept_when_an_import_stops_in_the_middle(store: Store, tmp_path: Path) -> None:
    before = contents(store)
    generation = store.generation()
    folder = write_lines(tmp_path / "in", "posts", "{", *(json.dumps({"id": f"new-{n}"}) for n in range(1500)))
    write_lines(
        folder, "interactions", *(json.dumps({"user": "u0", "post": f"new-{n}", "kind": "like"}) for n in range(1500))
    )

    class Stopped(BaseException):
        pass

    for where in ("posts", "interactions"):

        def stop(name: str, rows: int, where: str = where) -> None:
            if name == where and rows:
                raise Stopped

        with pytest.raises(Stopped):
            import_folder(store, folder, stop)
        assert contents(store) == before
        assert store.generation() == generation
        assert store.search("new", 10) == []
        assert not list((store.home / "rejects").iterdir())


def test_a_full_disk_keeps_nothing(store: Store, tmp_path: Path, exchange_folder: Path) -> None:
    before = contents(store)
    pages = store.database.connection.execute("PRAGMA page_count").fetchone()[0]
    store.database.connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    folder = write_lines(
        tmp_path / "in", "posts", *(json.dumps({"id": f"new-{n}", "text": "x" * 5000}) for n in range(200))
    )
    with pytest.raises(HomeError, match="disk is full"):
        import_folder(store, folder)
    assert contents(store) == before


def test_progress_tells_the_rows_read(empty_store: Store, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    folder = write_lines(tmp_path / "in", "posts", *(json.dumps({"id": str(n)}) for n in range(2500)))
    import_folder(empty_store, folder, lambda name, rows: told.append((name, rows)))
    assert told == [("posts", 1000), ("posts", 2000), ("posts", 2500)]


# ---- times


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0.0),
        (17, 17.0),
        ("17", 17.0),
        (1_500_000_000, 1_500_000_000.0),
        (1_500_000_000.25, 1_500_000_000.25),
        ("2017-07-14T02:40:00Z", 1_500_000_000.0),
        ("2017-07-14T02:40:00", 1_500_000_000.0),
        ("2017-07-14T04:40:00+02:00", 1_500_000_000.0),
        (" 2017-07-14 ", 1_499_990_400.0),
        ("2017-07-14T02:40:00.250Z", 1_500_000_000.25),
    ],
)
def test_times_as_people_write_them(value: object, seconds: float | None) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value", [True, "soon", "nan", "inf", "-inf", [1], {"a": 1}, "2017-02-30", "25:00", float("nan")]
)
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_time_comes_back_to_the_millisecond(seconds: float) -> None:
    back = parse_time(format_time(seconds))
    assert back is not None
    assert back == seconds or abs(back - seconds) <= 0.001
    assert parse_time(format_time(back)) == back


def test_order_numbers_stay_numbers() -> None:
    assert format_time(12.0) == 12.0
    assert format_time(1_500_000_000.0) == "2017-07-14T02:40:00.000Z"


# ---- and back out


def test_an_export_holds_everything_about_one_user_and_nobody_else(store: Store, tmp_path: Path, world: World) -> None:
    talks = Conversations(store)
    mine, other = talks.start("u7", 1.0), talks.start("u8", 1.0)
    talks.add(mine, "user", "less sailing", 2.0)
    talks.add(other, "user", "a secret", 2.0)
    out = export_user(store, "u7", tmp_path / "new" / "out")
    rows = {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in out.iterdir()}
    assert rows["users.jsonl"] == [row for row in (user.to_row() for user in store.all_users()) if row["id"] == "u7"]
    events = [row for row in world.interactions if row["user"] == "u7"]
    assert [(row["post"], row["kind"]) for row in rows["interactions.jsonl"]] == [
        (row["post"], row["kind"]) for row in events
    ]
    assert {row["id"] for row in rows["posts.jsonl"]} == {row["post"] for row in events}
    assert {row["from"] for row in rows["follows.jsonl"]} == {"u7"}
    assert [row["text"] for row in rows["turns.jsonl"]] == ["less sailing"]


@pytest.mark.parametrize("user", ["u0", "u7", "u20", "newcomer"])
def test_export_and_import_into_a_new_home_give_the_same_rows(
    store: Store, empty_store: Store, tmp_path: Path, user: str
) -> None:
    out = export_user(store, user, tmp_path / "out")
    assert rejected(empty_store, out) == []
    assert [row for _, row in contents(empty_store)["posts"]] == [
        post.to_row() for post in store.posts([row[1] for row in empty_store.post_rows()]).values()
    ]
    assert empty_store.user(user) == store.user(user)
    assert [event.to_row() for _, event in empty_store.events()] == [
        event.to_row() for _, event in store.events(user=user)
    ]
    again = export_user(empty_store, user, tmp_path / "again")
    for name in ("posts", "users", "follows"):
        assert (again / f"{name}.jsonl").read_bytes() == (out / f"{name}.jsonl").read_bytes()


def test_a_rule_that_was_switched_off_is_off_in_the_new_home(store: Store, empty_store: Store, tmp_path: Path) -> None:
    rule = store.append(Event("", "u0", "", "exclude", 5.0, None, "brewing"))
    store.append(Event("", "u0", "", "rule-off", 6.0, None, rule.id))
    import_folder(empty_store, export_user(store, "u0", tmp_path / "out"))
    events = {event.kind: event for _, event in empty_store.events(user="u0") if event.kind in STEERING}
    assert events["rule-off"].text == events["exclude"].id


def test_export_refuses_a_folder_with_something_in_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="exists already"):
        export_user(store, "u0", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"
    with pytest.raises(UnknownUser, match="'nobody'"):
        export_user(store, "nobody", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


# Any character, lone surrogates among them: JSON can carry them, UTF-8 cannot.
_texts = st.text(st.characters(), max_size=30)
_ids = st.one_of(st.text(st.characters(), min_size=1, max_size=12), st.integers(0, 99))
_times = st.one_of(
    st.none(),
    st.integers(0, 100),
    st.floats(-1e15, 1e15, allow_nan=False),
    st.datetimes().map(lambda moment: moment.isoformat()),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=6,
)
_posts = st.lists(
    st.fixed_dictionaries(
        {"id": _ids},
        optional={
            "title": st.one_of(_texts, st.none(), st.integers()), "text": _texts, "url": _texts, "author": _texts,
            "community": _texts, "tags": st.one_of(_texts, st.lists(_texts, max_size=3)), "language": _texts,
            "created_at": _times, "image": _texts, "kind": st.sampled_from(["post", "video", "", None]),
            "more": _json, "\u00e9xtra": _json,
        },
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip
_acts = st.lists(
    st.fixed_dictionaries(
        {"place": st.integers(0, 4), "kind": st.sampled_from(["like", "hide", "rate", "include", "interest", "odd"])},
        optional={
            "time": _times,
            "value": st.one_of(st.none(), st.integers(), st.floats(-1e300, 1e300)),
            "text": _texts,
        },
    ),
    max_size=8,
)


@given(_posts, _acts)
@settings(max_examples=30)
def test_whatever_is_imported_comes_back_out_the_same(
    tmp_path_factory: pytest.TempPathFactory, posts: list[dict[str, Any]], acts: list[dict[str, Any]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("wild")
    wild = [{**act, "user": "someone", "post": posts[act["place"] % len(posts)]["id"]} for act in acts]
    folder = tmp_path / "in"
    folder.mkdir()
    for name, rows in (("posts", posts), ("users", [{"id": "someone"}]), ("interactions", wild)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    with _opened(tmp_path / "first") as first, _opened(tmp_path / "second") as second:
        report = import_folder(first, folder)
        assert all(count.read == count.kept + count.rejected for count in report.counts.values())
        out = export_user(first, "someone", tmp_path / "out")
        assert import_folder(second, out).rejects is None
        assert [event.to_row() for _, event in second.events()] == [event.to_row() for _, event in first.events()]
        ids = [row[1] for row in second.post_rows()]
        assert {id: post.to_row() for id, post in second.posts(ids).items()} == {
            id: post.to_row() for id, post in first.posts(ids).items()
        }
        assert set(ids) == {event.post for _, event in first.events() if event.post}
    shutil.rmtree(tmp_path)


class _opened:
    """A store that is closed in the end."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> Store:
        self._store = Store(self._home)
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


@given(st.binary(max_size=300))
def test_no_bytes_whatsoever_stop_an_import(
    empty_store: Store, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = write_lines(tmp_path_factory.getbasetemp() / "bytes", "users", '{"id": "u"}')
    (folder / "posts.jsonl").write_bytes(data)
    (folder / "interactions.jsonl.gz").write_bytes(gzip.compress(data)[: len(data)])
    report = import_folder(empty_store, folder)
    assert report.counts["users"].kept == 1
    assert all(count.read == count.kept + count.rejected for count in report.counts.values())
    assert (report.rejects is None) == (sum(count.rejected for count in report.counts.values()) == 0)
