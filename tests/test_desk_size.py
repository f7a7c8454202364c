"""The work of one request to the desk is bounded, and grows with the size of the request, not with its square."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import desk_world
from tests.desk_world import customer
from whyfeed.agent.desk.desk import READ, Desk
from whyfeed.agent.desk.suggestion import Suggestions
from whyfeed.retrieval.desk.store import masked
from whyfeed.retrieval.desk.types import DeskConversation
from whyfeed.retrieval.privacy.vault import Vault

GIVEN = ("Alice", "Bob", "Zoe", "Ann", "John", "Maria", "Peter", "Linda", "Susan", "James")


@pytest.fixture
def desk(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Desk]:
    with desk_world.desk_of(desk_world.home_of(tmp_path_factory, tmp_path / "home")) as opened:
        yield opened


def names(turns: int, each: int = 4) -> list[dict[str, Any]]:
    """A conversation of different names."""
    rng = random.Random(0)

    def name() -> str:
        return f"{rng.choice(GIVEN)} {''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=7)).title()}"

    said = [" ".join(f"My name is {name()}." for _ in range(each)) for _ in range(turns)]
    return [{"role": ("customer", "agent")[place % 2], "text": text} for place, text in enumerate(said)]


def seconds(work: Callable[[], object]) -> float:
    """The least processor time of a few runs."""
    best = 1e9
    for _ in range(3):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def last(desk: Desk, turns: list[dict[str, Any]], vault: Vault | None = None) -> Suggestions:
    *_, found = desk.suggest({"turns": turns}, vault=vault)
    return found


def test_masking_takes_time_in_proportion_to_the_size() -> None:
    def mask(turns: int) -> float:
        conversation = DeskConversation.from_row({"id": "c", "turns": names(turns)})
        return seconds(lambda: masked(conversation, Vault()))

    few, many = mask(80), mask(320)
    print(f"80 turns {few:.3f} s, 320 turns {many:.3f} s: {many / few:.1f} times")
    assert many < 9 * few  # four times the size; in square time it would be sixteen


def test_a_request_at_the_limit_costs_little_more_than_what_is_read(desk: Desk) -> None:
    large = [*names(499, 170), customer("I want to book a room in a hotel")]
    size = sum(len(turn["text"]) for turn in large)
    assert size > 1_900_000
    found = last(desk, large)
    note = found.trace.stages[0].note
    left_out = int(note.split("; ")[1].split()[0])
    small = large[left_out:]
    assert sum(len(turn["text"]) for turn in small) <= READ < sum(len(turn["text"]) for turn in large[left_out - 1 :])
    same = last(desk, small)
    assert "left out" not in same.trace.stages[0].note
    assert [each.text for each in found.suggestions] == [each.text for each in same.suggestions]
    assert found.handover == same.handover
    few, many = seconds(lambda: last(desk, small)), seconds(lambda: last(desk, large))
    print(f"{size} characters {many:.2f} s, the {READ} that are read {few:.2f} s")
    assert many < 2 * few + 0.5


def test_what_is_not_read_is_nowhere_in_the_answer(desk: Desk) -> None:
    vault = Vault()
    secret = {"role": "customer", "text": "My mail is zoe@example.com"}
    found = last(desk, [secret, *names(499, 10), customer("I want to book a room in a hotel")], vault)
    assert "zoe@example.com" not in str(found.to_json()) + str(found.trace)
    assert "zoe@example.com" not in vault.values().values()


def test_a_huge_look_up_is_left_out_and_the_message_is_answered(desk: Desk) -> None:
    huge = {"role": "knowledge", "item": {f"field {number}": "x" * 50 for number in range(20_000)}}
    found = last(desk, [huge, customer("I want to book a room in a hotel")])
    assert "1 older turns left out" in found.trace.stages[0].note
    assert found.suggestions
    assert last(desk, [customer("I want to book a room in a hotel"), huge]).trace.stages[0].status == "ok"
