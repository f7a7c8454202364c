"""Placeholders are filled from what is known of this conversation, or shown as missing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from whyfeed.agent.desk.placeholders import Filled, Placeholders, templated
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, SavedReply

HOTEL = SavedReply("hotel", "The '{hotel_name}' is in the {price_range} price range")
DOCTOR = SavedReply("doctor", "{doctor_name} is free at {time} o'clock. Shall I book it?")
FLAT = SavedReply("flat", "It {has_balcony}.")
STEP = SavedReply("step", "{instruction} Can I go on?")
REPLIES = {reply.id: reply for reply in (HOTEL, DOCTOR, FLAT, STEP)}


def lookup(**item: object) -> DeskTurn:
    return DeskTurn("knowledge", item=item)


def sent(text: str, reply: SavedReply) -> DeskTurn:
    return DeskTurn("agent", text, reply=reply.id)


def past() -> list[DeskConversation]:
    found = []
    for number in range(8):
        name, cost = ("Hilton Hotel", "Hyatt Hotel")[number % 2], ("Cheap", "Expensive", "Moderate")[number % 3]
        balcony = number % 2 == 0
        steps = [f"Walk {number + 2} blocks.", "Turn left."]
        turns = (
            DeskTurn("customer", "hello"),
            lookup(Name=name, Cost=cost, Location="North"),
            sent(f"The '{name}' is in the {cost} price range", HOTEL),
            lookup(DoctorName=f"Dr. {'ABCDEFGH'[number]}lex", Time=f"{number + 1} pm"),
            sent(f"Dr. {'ABCDEFGH'[number]}lex is free at {number + 1} pm. Shall I book it?", DOCTOR),
            lookup(HasBalcony=balcony),
            sent("It has a balcony." if balcony else "It does not have a balcony.", FLAT),
            lookup(Steps=steps),
            sent(f"{steps[0]} Can I go on?", STEP),
            sent(f"{steps[1]} Can I go on?", STEP),
        )
        found.append(DeskConversation(str(number), turns))
    return found


@pytest.fixture(scope="module")
def book() -> Placeholders:
    return Placeholders.learn(past(), REPLIES)


def fill(book: Placeholders, reply: SavedReply | str, *turns: DeskTurn) -> Filled:
    return book.fill(reply, turns)


def test_a_name_that_only_the_past_knows_is_filled_and_cited(book: Placeholders) -> None:
    filled = fill(book, HOTEL, DeskTurn("customer", "?"), lookup(Name="Old Inn", Cost="Cheap"))
    assert filled.text == "The 'Old Inn' is in the Cheap price range"
    assert filled.missing == ()
    assert filled.values == {"hotel_name": "Old Inn", "price_range": "Cheap"}
    assert {(citation.type, citation.id) for citation in filled.citations} == {("knowledge", "1")}


def test_the_newest_look_up_counts(book: Placeholders) -> None:
    turns = (lookup(Name="Old Inn", Cost="Cheap"), lookup(Name="New Inn", Cost="Moderate"))
    assert fill(book, HOTEL, *turns).text == "The 'New Inn' is in the Moderate price range"


def test_what_is_not_known_stays_open_in_human_words(book: Placeholders) -> None:
    filled = fill(book, HOTEL, DeskTurn("customer", "the Hilton Hotel please, it is cheap"), lookup(Name="Old Inn"))
    assert filled.text == "The 'Old Inn' is in the {price range} price range"
    assert filled.missing == ("price range",)


def test_the_form_in_which_a_template_is_really_sent(book: Placeholders) -> None:
    filled = fill(book, DOCTOR, lookup(DoctorName="Dr. Morgan", Time="9 pm"))
    assert filled.text == "Dr. Morgan is free at 9 pm. Shall I book it?"


@pytest.mark.parametrize(("value", "text"), [(True, "It has a balcony."), (False, "It does not have a balcony.")])
def test_yes_and_no_are_said_as_in_the_past(book: Placeholders, value: bool, text: str) -> None:
    assert fill(book, FLAT, lookup(HasBalcony=value)).text == text


def test_a_yes_that_nobody_ever_said_is_missing() -> None:
    assert fill(Placeholders(), FLAT, lookup(has_balcony=True)).missing == ("has balcony",)


def test_steps_are_told_one_after_another(book: Placeholders) -> None:
    steps = lookup(Steps=["Go up.", "Go down.", "Stop there."])
    assert fill(book, STEP, steps).text == "Go up. Can I go on?"
    told = (steps, DeskTurn("agent", "Go up. Can I go on?"), DeskTurn("customer", "yes"))
    assert fill(book, STEP, *told).text == "Go down. Can I go on?"
    all_told = (*told, DeskTurn("agent", "Go down."), DeskTurn("agent", "Stop there."))
    assert fill(book, STEP, *all_told).missing == ("instruction",)


@pytest.mark.parametrize("key", ["average_rating", "AverageRating", "average rating"])
def test_without_a_past_equal_names_are_enough(key: str) -> None:
    filled = fill(Placeholders(), "Rated {average_rating}, says {guest_name}", lookup(**{key: 4.0, "Name": "Ann"}))
    assert filled.text == "Rated 4, says {guest name}"


def test_what_the_agent_looked_up_with_is_of_this_conversation() -> None:
    filled = fill(Placeholders(), "For {day}?", DeskTurn("agent", query={"Day": '"Tuesday"'}))
    assert filled.text == "For Tuesday?"
    assert filled.citations[0].type == "conversation"


def test_a_habit_that_fails_too_often_is_none() -> None:
    mixed = [
        DeskConversation(
            str(number), (lookup(Name=name, Cost="Cheap"), sent("The 'Inn' is in the Cheap price range", HOTEL))
        )
        for number, name in enumerate(["Inn", "Inn", "Inn", "Castle", "Lodge"])
    ]
    filled = fill(Placeholders.learn(mixed, REPLIES), HOTEL, lookup(Name="Palace", Cost="Cheap"))
    assert filled.missing == ("hotel name",)


# ---- free replies of the past ----


def free(text: str, *turns: DeskTurn, ordinary: Sequence[str] = ()) -> Filled | None:
    return templated(text, turns, lambda word: 100 if word in ordinary else 0)


def test_another_customers_time_becomes_a_placeholder() -> None:
    filled = free("I can get you in at 7pm", DeskTurn("customer", "Any time?"))
    assert filled is not None
    assert filled.text == "I can get you in at {time}"
    assert filled.missing == ("time",)


def test_a_value_of_this_conversation_stays_and_is_cited() -> None:
    filled = free("I can get you in at 7pm", DeskTurn("customer", "At 7 pm please"))
    assert filled is not None
    assert (filled.text, filled.missing) == ("I can get you in at 7pm", ())
    assert [(citation.type, citation.id) for citation in filled.citations] == [("conversation", "0")]


def test_names_and_chips_of_another_case_go() -> None:
    filled = free("I have written to [email 1] about your stay at the Hilton Hotel", DeskTurn("customer", "Hi"))
    assert filled is not None
    assert "[email 1]" not in filled.text
    assert "Hilton" not in filled.text
    assert len(filled.missing) == 2


def test_chinese_numbers_are_named_after_the_word_before_and_keep_their_unit() -> None:
    filled = free("评分是4.6分", DeskTurn("customer", "评分呢"), ordinary=("评分",))
    assert filled is not None
    assert filled.text == "评分是{评分}分"


def test_rare_chinese_words_are_another_cases() -> None:
    ordinary = ("推荐", "您", "去", "游玩", "那里", "很", "不错")
    filled = free("推荐您去八达岭长城游玩，那里很不错", DeskTurn("customer", "去哪玩"), ordinary=ordinary)
    assert filled is not None
    assert "八达岭" not in filled.text
    assert "长城" not in filled.text
    kept = free("推荐您去八达岭长城游玩，那里很不错", DeskTurn("customer", "八达岭长城怎么样"), ordinary=ordinary)
    assert kept is not None
    assert "八达岭长城" in kept.text


def test_a_chinese_place_is_another_cases_however_often_it_is_named() -> None:
    said = "没问题，周边景点有绿岛乐园。"
    filled = templated(said, [DeskTurn("customer", "周边有什么景点")], lambda word: 50)
    assert filled is not None
    assert "绿岛" not in filled.text
    assert templated("是豪华型酒店。", [], lambda word: 50) == Filled("是豪华型酒店。")


def test_too_much_missing_is_no_suggestion() -> None:
    assert free("Meet Ann at 7 pm on Tuesday, 3 June, gate 12", DeskTurn("customer", "?")) is None
    assert free("010-63553377", DeskTurn("customer", "电话？")) is None
