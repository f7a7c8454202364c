"""Conversations and saved replies in the exchange format, and the service desk's demo."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from whyfeed.agent.demo import DESK_FOLDER as DEMO
from whyfeed.retrieval.desk.store import DeskStore
from whyfeed.retrieval.desk.types import DeskConversation, SavedReply
from whyfeed.retrieval.store.exchange import ImportReport, import_folder
from whyfeed.retrieval.store.store import Store

TALK: dict[str, Any] = {
    "id": "c1",
    "language": "en",
    "status": "waiting",
    "turns": [
        {"role": "customer", "text": "I want a refund, my e-mail is anna@example.com"},
        {"role": "agent", "text": "What is the order number?", "reply": "ask-order", "offered": ["ask-order"]},
        {"role": "customer", "text": "I don't have it"},
    ],
    "topic": "refund",
}
REPLY = {"id": "ask-order", "text": "What is the order number?", "intent": "ask", "language": "en", "team": "a"}


def write(folder: Path, **files: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def causes(report: ImportReport) -> list[tuple[str, int, str]]:
    if report.rejects is None:
        return []
    rows = [json.loads(line) for line in report.rejects.read_text(encoding="utf-8").splitlines()]
    return [(row["file"], row["line"], row["cause"]) for row in rows]


def tables(store: Store) -> list[list[Any]]:
    connection = store.database.connection
    names = ("conversations", "turns", "vault", "cases", "search", "replies")
    return [connection.execute(f"SELECT rowid, * FROM desk_{name}").fetchall() for name in names]


@pytest.mark.parametrize(
    "files", [{"conversations": [TALK]}, {"replies": [REPLY]}, {"conversations": [TALK], "replies": [REPLY]}]
)
def test_a_folder_with_only_the_desk_is_importable(empty_store: Store, tmp_path: Path, files: dict[str, Any]) -> None:
    report = import_folder(empty_store, write(tmp_path / "in", **files)).to_json()
    for name in ("conversations", "replies", "posts"):
        count = int(name in files)
        assert report[name] == {"read": count, "kept": count, "rejected": 0}, name
    counts = DeskStore(empty_store).counts()
    assert (counts["conversations"], counts["replies"]) == ("conversations" in files, "replies" in files)


def test_what_was_imported_is_there_masked(empty_store: Store, tmp_path: Path) -> None:
    import_folder(empty_store, write(tmp_path / "in", conversations=[TALK], replies=[REPLY]))
    desk = DeskStore(empty_store)
    masked = json.loads(json.dumps(TALK).replace("anna@example.com", "[email 1]"))
    assert desk.conversation("c1") == DeskConversation.from_row(masked)
    assert desk.replies() == [SavedReply.from_row(REPLY)]
    assert [case.id for case in desk.cases()] == ["c1/1"]


def test_importing_twice_changes_nothing(empty_store: Store, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in", conversations=[TALK, {**TALK, "id": "c2"}, TALK], replies=[REPLY, {**REPLY, "id": 2}]
    )
    import_folder(empty_store, folder)
    desk = DeskStore(empty_store)
    desk.add_turn("c1", DeskConversation.from_row(TALK).turns[1])
    before = (tables(empty_store), desk.generation())
    import_folder(empty_store, folder)
    assert (tables(empty_store), desk.generation()) == before


BAD = {
    "no turns": ("conversations", {"id": "x"}, "turns is missing"),
    "turns no list": ("conversations", {"id": "x", "turns": "hello"}, "is not a list"),
    "one bad turn": (
        "conversations",
        {"id": "x", "turns": [*TALK["turns"], {"role": "boss", "text": "Hi"}]},
        "role 'boss'",
    ),
    "a turn no object": ("conversations", {"id": "x", "turns": [TALK["turns"][0], "Hi"]}, "is not an object"),
    "bad time": ("conversations", {"id": "x", "turns": [{"role": "customer", "time": "soon"}]}, "time 'soon'"),
    "bad item": ("conversations", {"id": "x", "turns": [{"role": "knowledge", "item": 3}]}, "item 3"),
    "no id": ("conversations", {"turns": TALK["turns"]}, "id is missing"),
    "bad status": ("conversations", {"id": "x", "turns": [], "status": "lost"}, "status 'lost'"),
    "twice": ("conversations", {**TALK, "turns": []}, "'c1' is in this file already"),
    "not JSON": ("conversations", "{", "not JSON"),
    "empty reply": ("replies", {"id": "x", "text": " "}, "text is missing"),
    "reply without id": ("replies", {"text": "Hi"}, "id is missing"),
}


@pytest.mark.parametrize(("file", "row", "cause"), BAD.values(), ids=list(BAD))
def test_a_bad_row_is_left_out_whole_and_said(
    empty_store: Store, tmp_path: Path, file: str, row: Any, cause: str
) -> None:
    good: dict[str, list[Any]] = {"conversations": [TALK], "replies": [REPLY]}
    good[file] = [*good[file], row]
    report = import_folder(empty_store, write(tmp_path / "in", **good))
    [(name, line, said)] = causes(report)
    assert (name, line) == (f"{file}.jsonl", 2)
    assert cause in said
    assert report.to_json()[file] == {"read": 2, "kept": 1, "rejected": 1}
    desk = DeskStore(empty_store)
    assert desk.counts() == {"conversations": 1, "waiting": 1, "cases": 1, "replies": 1}
    assert len(desk.conversation("c1").turns) == 3


def test_an_import_that_fails_at_the_last_file_keeps_nothing(empty_store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", posts=[{"id": "p"}], conversations=[TALK], replies=[REPLY] * 1000)

    def stop(name: str, rows: int) -> None:
        if name == "replies":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_folder(empty_store, folder, stop)
    assert list(empty_store.all_posts()) == []
    assert not any(tables(empty_store))


# ---- the demo


def demo_rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(DEMO / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_demo_is_small_and_every_row_can_be_read() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 1_200_000
    conversations = [DeskConversation.from_row(row) for row in demo_rows("conversations")]
    replies = {SavedReply.from_row(row).id for row in demo_rows("replies")}
    assert len({one.id for one in conversations}) == len(conversations)
    assert {turn.reply for one in conversations for turn in one.turns} - replies == {""}
    assert {row["language"] for row in demo_rows("posts")} == {"en", "zh"}
    waiting = [one for one in conversations if one.status == "waiting"]
    assert sorted(one.language for one in waiting) == ["en"] * 10 + ["zh"] * 8
    assert all(one.asked and one.id.startswith("waiting-") for one in waiting)


def test_what_suggestions_are_measured_on_is_no_past_case_of_the_demo() -> None:
    for row in demo_rows("conversations"):
        source, _, id = row["id"].partition("-")
        if source in ("star", "crosswoz"):
            assert int(hashlib.md5(id.encode(), usedforsecurity=False).hexdigest(), 16) % 10, row["id"]


def test_the_replies_of_the_bank_ask_or_say_where_to_look() -> None:
    texts = {row["intent"]: row["text"] for row in demo_rows("replies") if row["id"].startswith("banking77/")}
    assert (len(texts), len(set(texts.values()))) == (77, 77)
    for intent, text in texts.items():
        assert 40 < len(text) < 180, intent
        assert not any(letter in "0123456789{}$£€%" for letter in text), intent  # no sums, no times, nothing to fill in


def test_the_personal_data_of_the_waiting_demo_ones_is_masked(empty_store: Store) -> None:
    rows = [
        DeskConversation.from_row(row)
        for row in demo_rows("conversations")
        if row["id"].startswith(("waiting-en", "waiting-zh"))
    ]
    desk = DeskStore(empty_store)
    desk.put_conversations(rows)
    assert len(rows) == 4
    for one in rows:
        kinds = {chip[1:].partition(" ")[0] for chip in desk.chips(one.id)}
        assert kinds >= {"email", "order"}, one.id
        text = " ".join(turn.text for turn in desk.conversation(one.id).turns)
        assert "@" not in text, one.id
        assert not re.search(r"\d{3}", text), one.id
