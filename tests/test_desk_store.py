"""The service desk's tables: what is masked, what becomes a case, and what is gone after an erasure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from whyfeed.retrieval.desk.store import Case, DeskStore
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, SavedReply
from whyfeed.retrieval.errors import DataError, UnknownConversation
from whyfeed.retrieval.store.store import Store

EMAIL, PHONE, ORDER = "marta.okonjo@example.com", "+44 20 7946 0958", "DX-4827193"


def talk(id: str = "c", status: str = "closed", *turns: dict[str, Any], **more: Any) -> DeskConversation:
    return DeskConversation.from_row({"id": id, "status": status, "language": "en", "turns": list(turns), **more})


def says(text: str, time: float | None = None) -> dict[str, Any]:
    return {"role": "customer", "text": text, "time": time}


def answers(text: str, time: float | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "agent", "text": text, "time": time, **more}


PRIVATE = (
    answers("Hello! Is this about the booking of marta.okonjo@example.com?"),
    says(f"Yes. My order number is {ORDER}, you can write to {EMAIL} or call {PHONE}."),
    {"role": "agent", "query": {"Order": ORDER}},
    {"role": "knowledge", "item": {"order": ORDER, "guest": {"mail": EMAIL, "phones": [PHONE]}, "price": 120}},
    answers(f"I found {ORDER}. Shall I write to {EMAIL}?", draft=f"writing to {EMAIL}", reply="found"),
    says("Yes please"),
)


def dump(store: Store, *, without: tuple[str, ...] = ()) -> str:
    """Every value in every table; the shadow tables of full-text indexes hold bytes, so they are told apart too."""
    db = store.database.connection
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    parts = []
    for name in names:
        if name not in without:
            for row in db.execute(f'SELECT * FROM "{name}"').fetchall():
                parts += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row]
    return "\n".join(parts)


def rows_of(store: Store) -> dict[str, int]:
    tables = ("conversations", "turns", "vault", "cases", "search", "vectors")
    connection = store.database.connection
    return {name: connection.execute(f"SELECT count(*) FROM desk_{name}").fetchone()[0] for name in tables}


@pytest.fixture
def desk(empty_store: Store) -> DeskStore:
    return DeskStore(empty_store)


# ---- masking


@pytest.mark.parametrize("status", ["waiting", "closed"])
def test_a_raw_value_is_nowhere_but_in_the_vault_of_a_waiting_one(
    desk: DeskStore, empty_store: Store, status: str
) -> None:
    desk.put_conversations([talk("c", status, *PRIVATE, note=f"see {EMAIL}")])
    everywhere = dump(empty_store, without=("desk_vault",))
    assert "[email 1]" in everywhere
    for raw in (EMAIL, PHONE, ORDER):
        assert raw not in everywhere, raw
        assert (raw in dump(empty_store)) == (status == "waiting"), raw


def test_masked_turns_keep_their_form_and_say_whose_value_is_whose(desk: DeskStore) -> None:
    desk.put_conversations([talk("c", "waiting", *PRIVATE)])
    turns = desk.conversation("c").turns
    assert turns[0].text == "Hello! Is this about the booking of [email 1]?"
    assert turns[2].query == {"Order": "[order 1]"}
    assert turns[3].item == {
        "order": "[order 1]", "guest": {"mail": "[email 1]", "phones": ["[phone 1]"]}, "price": 120,
    }  # fmt: skip
    assert (turns[4].text, turns[4].draft) == ("I found [order 1]. Shall I write to [email 1]?", "writing to [email 1]")
    assert desk.chips("c") == {"[order 1]": ORDER, "[email 1]": EMAIL, "[phone 1]": PHONE}
    assert desk.unmask("c", "Call [phone 1], not [phone 2]") == f"Call {PHONE}, not [phone 2]"


def test_a_number_that_the_customer_told_is_masked_in_a_look_up_too(desk: DeskStore) -> None:
    desk.put_conversations(
        [
            talk(
                "c",
                "waiting",
                says("my order number is 48271935"),
                {"role": "knowledge", "item": {"id": 48271935, "n": 1}},
            )
        ]
    )
    assert desk.conversation("c").turns[1].item == {"id": "[order 1]", "n": 1}


def test_a_bare_answer_is_masked_because_of_what_the_agent_asked(desk: DeskStore) -> None:
    desk.put_conversations([talk("c", "closed", answers("What is your PIN?"), says("8305"))])
    id = desk.start()
    desk.add_turn(id, DeskTurn("agent", "What is your PIN?"))
    desk.add_turn(id, DeskTurn("customer", "8305"))
    for each in ("c", id):
        assert "8305" not in desk.conversation(each).turns[1].text
    assert list(desk.chips(id).values()) == ["8305"]


def test_closing_deletes_the_vault_and_keeps_the_conversation(desk: DeskStore, empty_store: Store) -> None:
    desk.put_conversations([talk("c", "waiting", *PRIVATE)])
    before = desk.conversation("c").turns
    desk.close("c")
    assert desk.chips("c") == {}
    assert desk.unmask("c", "[email 1]") == "[email 1]"
    assert EMAIL not in dump(empty_store)
    closed = desk.conversation("c")
    assert (closed.status, closed.turns) == ("closed", before)
    with pytest.raises(DataError, match="closed"):
        desk.add_turn("c", DeskTurn("customer", "One more thing"))


# ---- cases


def test_every_answer_is_a_case_of_what_was_asked_and_said_before(desk: DeskStore) -> None:
    desk.put_conversations(
        [
            talk(
                "c", "closed", answers("Welcome"), says("Where is"), says("my card?"),
                {"role": "knowledge", "item": {"sent": "Monday"}},
                answers("Sent on Monday", 7.0, reply="sent", offered=["a", "sent"]),
                answers("Anything else?"), {"role": "agent", "query": {"x": "y"}}, says("No"),
            )
        ]
    )  # fmt: skip
    assert list(desk.cases()) == [
        Case(1, "c", 4, "Where is my card?", "Welcome", "Sent on Monday", "sent", ("a", "sent"), "en", 7.0),
        Case(2, "c", 5, "", "Sent on Monday", "Anything else?", "", (), "en", None),
    ]
    assert [case.id for case in desk.cases(after=1)] == ["c/5"]
    assert desk.cases_by_num([2, 99, 1]).keys() == {1, 2}


def test_an_added_answer_is_a_case_at_once(desk: DeskStore) -> None:
    id = desk.start("en")
    assert desk.add_turn(id, DeskTurn("customer", f"Refund for {ORDER}, order number {ORDER}", 5.0)) == 0
    assert list(desk.cases()) == []
    assert desk.add_turn(id, DeskTurn("agent", f"[order 1] or {ORDER}: is refunded", 6.0, reply="r")) == 1
    assert [(case.id, case.text, case.reply, case.language) for case in desk.cases()] == [
        (f"{id}/1", "[order 1] or [order 1]: is refunded", "r", "en")
    ]
    assert [num for num, _ in desk.search("refund")] == [1]
    assert desk.generation() == 0


def test_a_replaced_conversation_leaves_no_case_behind(desk: DeskStore, empty_store: Store) -> None:
    desk.put_conversations(
        [talk("c", "closed", says("lost luggage"), answers("Sorry"), says("Thanks"), answers("Bye"))]
    )
    desk.put_vectors("m", [1, 2], np.ones((2, 4), dtype=np.float32))
    before = desk.generation()
    desk.put_conversations([talk("c", "closed", says("parking"), answers("Level 2"))])
    assert [(case.num, case.text) for case in desk.cases()] == [(3, "Level 2")]
    assert (desk.search("luggage"), [num for num, _ in desk.search("parking")]) == ([], [3])
    assert desk.vectors("m", 4)[0] == []
    assert desk.generation() != before
    assert rows_of(empty_store)["turns"] == 2


def test_the_same_content_again_changes_nothing_not_even_what_was_added_since(
    desk: DeskStore, empty_store: Store
) -> None:
    given = [talk("c", "waiting", *PRIVATE), talk("d", "closed", says("Hi"), answers("Hello"))]
    desk.put_conversations(given)
    desk.add_turn("c", DeskTurn("agent", "Done", 9.0))
    before = dump(empty_store)
    desk.put_conversations(iter(given))
    assert dump(empty_store) == before


def test_a_corrected_value_replaces_a_waiting_conversation(desk: DeskStore) -> None:
    desk.put_conversations([talk("c", "waiting", says("I am at anna@example.com"))])
    desk.put_conversations([talk("c", "waiting", says("I am at hanna@example.com"))])
    assert desk.chips("c") == {"[email 1]": "hanna@example.com"}


def test_removing_leaves_nothing_and_its_numbers_never_return(desk: DeskStore, empty_store: Store) -> None:
    desk.put_conversations([talk("c", "waiting", *PRIVATE)])
    nums = [case.num for case in desk.cases()]
    desk.put_vectors("m", nums, np.ones((len(nums), 4), dtype=np.float32))
    before = desk.generation()
    assert all(rows_of(empty_store).values())
    desk.remove("c")
    assert not any(rows_of(empty_store).values())
    assert desk.generation() > before
    desk.put_vectors("m", nums, np.ones((len(nums), 4), dtype=np.float32))  # somebody was still embedding
    assert desk.vectors("m", 4)[0] == []
    desk.put_conversations([talk("d", "closed", says("Hi"), answers("Hello"))])
    assert min(case.num for case in desk.cases()) > max(nums)


# ---- open conversations


def test_who_waits_longest_comes_first_and_who_was_answered_last_is_recent(desk: DeskStore) -> None:
    desk.put_conversations(
        [
            talk("late", "waiting", says("a", 50.0), says("still there?", 90.0)),
            talk("early", "waiting", says("a", 1.0), answers("b", 2.0), says("c", 40.0),
                 {"role": "knowledge", "item": {"k": 1}}),
            talk("old", "waiting", says("a", 1.0), answers("b", 10.0)),
            talk("new", "waiting", says("a", 1.0), answers("b", 20.0)),
            talk("shut", "closed", says("a", 1.0)),
        ]
    )  # fmt: skip
    desk.start(id="empty")
    assert [one.id for one in desk.waiting()] == ["early", "late"]
    assert [one.id for one in desk.waiting(1)] == ["early"]
    assert [one.id for one in desk.recent()] == ["new", "old"]
    assert desk.counts() == {"conversations": 6, "waiting": 2, "cases": 3, "replies": 0}
    desk.add_turn("early", DeskTurn("agent", "d", 99.0))
    desk.add_turn("old", DeskTurn("customer", "e", 95.0))
    assert [one.id for one in desk.waiting()] == ["late", "old"]
    assert [one.id for one in desk.recent()] == ["early", "new"]


def test_a_started_conversation_has_an_id_of_its_own(desk: DeskStore) -> None:
    ids = {desk.start("zh", "u7") for _ in range(20)}
    assert len(ids) == 20
    assert all(len(id) >= 16 for id in ids)
    found = desk.conversation(ids.pop())
    assert (found.turns, found.status, found.language, found.customer) == ((), "waiting", "zh", "u7")
    desk.start(id="mine")
    with pytest.raises(DataError, match="exists"):
        desk.start(id="mine")
    with pytest.raises(ValueError, match="empty"):
        desk.start(id=" ")


def test_an_unknown_conversation_is_said_by_everything_that_takes_one(desk: DeskStore) -> None:
    turn = DeskTurn("customer", "Hi")
    for call in (desk.conversation, desk.chips, desk.close, desk.remove, lambda id: desk.add_turn(id, turn)):
        with pytest.raises(UnknownConversation, match="nobody"):
            call("nobody")
    with pytest.raises(UnknownConversation):
        desk.unmask("nobody", "[email 1]")


def test_two_threads_that_add_to_one_conversation_get_places_of_their_own(desk: DeskStore) -> None:
    id = desk.start()
    places: list[int] = []
    start = threading.Barrier(2)

    def add(who: str) -> None:
        start.wait()
        for number in range(15):
            places.append(desk.add_turn(id, DeskTurn("customer", f"{who} mail {who}{number}@example.com")))

    threads = [threading.Thread(target=add, args=[who]) for who in ("anna", "ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(places) == list(range(30))
    assert len(desk.conversation(id).turns) == 30
    assert len({value for value in desk.chips(id).values() if "@" in value}) == 30


def test_a_failure_in_the_middle_keeps_nothing(desk: DeskStore, empty_store: Store) -> None:
    def broken() -> Iterator[DeskConversation]:
        yield talk("c", "waiting", *PRIVATE)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        desk.put_conversations(broken())
    assert not any(rows_of(empty_store).values())


# ---- replies, words, vectors


def test_saved_replies_are_replaced_in_their_place(desk: DeskStore) -> None:
    first, second = SavedReply("a", "Hello {name}", "greet", "en", {"task": "t"}), SavedReply("b", "Bye")
    desk.put_replies([first, second])
    changed = SavedReply("a", "Good morning", "greet")
    desk.put_replies([changed])
    assert desk.replies() == [changed, second]


def test_words_find_cases_in_both_languages_the_best_first(desk: DeskStore) -> None:
    texts = ["请问酒店提供接机服务吗", "The shuttle booking was cancelled", "A shuttle", "What about the weather"]
    desk.put_conversations(talk(f"c{n}", "closed", says(text), answers("Yes")) for n, text in enumerate(texts))
    assert [num for num, _ in desk.search("接机")] == [1]
    found = desk.search("booked a shuttle")
    assert [num for num, _ in found] == [2, 3]
    assert found[0][1] > found[1][1] > 0
    assert len(desk.search("booked a shuttle", 1)) == 1
    for empty in ("", "the and of", '"*(', "zeppelin"):
        assert desk.search(empty) == [], empty


def test_a_word_that_is_everywhere_is_not_asked_for(desk: DeskStore, empty_store: Store) -> None:
    with empty_store.database.write() as db:  # 20,000 conversations would take a minute
        db.execute(
            "WITH RECURSIVE n (i) AS (VALUES (1000) UNION ALL SELECT i + 1 FROM n WHERE i < 20999)"
            " INSERT INTO desk_search (rowid, asked, before) SELECT i, 'hotel', '' FROM n"
        )
    desk.put_conversations([talk("c", "closed", says("hotel sauna"), answers("Yes"))])
    assert [num for num, _ in desk.search("hotel sauna")] == [1]
    assert desk.search("hotel") == []


def test_vectors_come_back_by_number_in_half_precision(desk: DeskStore) -> None:
    desk.put_conversations(talk(f"c{n}", "closed", says("Hi"), answers("Hello")) for n in range(3))
    vectors = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    desk.put_vectors("m", [3, 1, 2], vectors)
    nums, found = desk.vectors("m", 8)
    assert (nums, found.dtype, found.shape) == ([1, 2, 3], np.float32, (3, 8))
    np.testing.assert_allclose(found, vectors[[1, 2, 0]], atol=2e-3)
    assert desk.vectors("m", 8, after=2)[0] == [3]
    nums, found = desk.vectors("other", 8)
    assert (nums, found.shape) == ([], (0, 8))
