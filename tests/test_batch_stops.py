"""A batch goes on after whatever stopped it as if nothing had."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sys
import threading
import time
from contextlib import aclosing
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.batch_world import (
    FEW,
    READERS,
    Writer,
    about,
    part,
    rows,
    served,
    stopped,
    there,
    written_by,
    written_rows,
)
from tests.conftest import EMBEDDER
from tests.test_kill import Killable, confirm
from tests.world import NOW
from whyfeed.agent.agent import Agent
from whyfeed.agent.answer import Answer, ItemsReady
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import DataError, HomeError

# ---- stopped, and gone on with ----


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_stopped_run_goes_on_to_the_same_file(agent: Agent, out: Path, name: str) -> None:
    out = out.with_name(name)
    agent.batch(None, out.with_name(f"undisturbed{out.suffix}"))
    for after in (2, 9, 10):
        stopped(agent, out, after)
        assert not out.exists()
    report = agent.batch(None, out)
    assert (report.done, report.resumed, report.posts, report.complete) == (READERS, 10, 5 * READERS, True)
    assert sum(report.reasons.values()) == report.posts
    assert out.read_bytes() == out.with_name(f"undisturbed{out.suffix}").read_bytes()
    assert there(out) == {name}


def test_a_stopped_writer_leaves_no_quote_in_place_of_a_clause(home: Path, out: Path) -> None:
    cancel = threading.Event()

    def stop(heard: threading.Event | None) -> None:
        if len(engine.history) == 9 and not cancel.is_set():
            cancel.set()
            assert heard is not None
            assert heard.wait(20)

    with written_by(home, engine := Writer(1, stop)) as agent:
        assert not agent.batch(None, out, cancel=cancel).complete
        agent.batch(None, out)
        agent.batch(None, out.with_name("again.jsonl"))
    assert out.read_bytes() == out.with_name("again.jsonl").read_bytes()


def test_the_time_of_the_first_start_counts(home: Path, out: Path, whole: bytes) -> None:
    clock = [NOW]
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: clock[0]) as agent:
        stopped(agent, out, 3)
        clock[0] += 1e9
        agent.batch(None, out)
    assert out.read_bytes() == whole


@settings(max_examples=40)
@given(cut=st.integers(0, 12_000), tail=st.binary(max_size=60))
def test_cut_at_any_byte_with_anything_after_it(agent: Agent, tmp_path: Path, cut: int, tail: bytes) -> None:
    out, right = tmp_path / "out.jsonl", tmp_path / "right.jsonl"
    if not right.exists():
        agent.batch(FEW, right, k=2)
    if not (kept := tmp_path / "kept.json").exists():
        stopped(agent, out, 2, FEW, k=2)
        kept.write_bytes(about(out).read_bytes())
    about(out).write_bytes(kept.read_bytes())
    part(out).write_bytes(right.read_bytes()[:cut] + tail)
    report = agent.batch(FEW, out, k=2)
    assert out.read_bytes() == right.read_bytes()
    assert report.resumed == min(right.read_bytes()[:cut].count(b"\n"), report.done)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\0" * 4096,
        b"null\n",
        b'{"user": "nobody", "items": []}\n',
        b'{"user": "u0", "items": []}\n',
        b'{"user": "u9"}\n',
        b'{"user": "u9", "items": [{}]}\n',
    ],
)
def test_garbage_after_the_rows_is_cut_off(agent: Agent, out: Path, whole: bytes, garbage: bytes) -> None:
    there_already = stopped(agent, out, 4)
    part(out).write_bytes(there_already + garbage)
    assert agent.batch(None, out).resumed == 4
    assert out.read_bytes() == whole


def test_killed_between_the_renaming_and_the_end(agent: Agent, out: Path, whole: bytes) -> None:
    stopped(agent, out, 4)
    part(out).unlink()
    out.write_bytes(whole)
    report = agent.batch(None, out)
    assert (report.complete, report.resumed) == (True, READERS)
    assert out.read_bytes() == whole
    assert there(out) == {"out.jsonl"}


@pytest.mark.parametrize("broken", [b"", b"{", b'{"wanted":', b"\0" * 100])
def test_without_a_description_the_run_begins_anew(agent: Agent, out: Path, whole: bytes, broken: bytes) -> None:
    stopped(agent, out, 4)
    about(out).write_bytes(broken)
    assert agent.batch(None, out).resumed == 0
    assert out.read_bytes() == whole


def test_restart_throws_away_what_is_there(agent: Agent, out: Path, whole: bytes) -> None:
    stopped(agent, out, 4, k=3)
    assert agent.batch(None, out, restart=True).resumed == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "named"),
    [({"k": 4}, "k=5"), ({"language": "zh"}, "language=en"), ({"write": False}, "write=True"),
     ({"min_events": 2}, "min_events=1")],
)  # fmt: skip
def test_other_options_are_refused_in_one_line(agent: Agent, out: Path, options: dict[str, Any], named: str) -> None:
    before = stopped(agent, out, 4)
    with pytest.raises(DataError, match=named) as caught:
        agent.batch(None, out, **options)
    assert "\n" not in str(caught.value)
    assert "--restart" in str(caught.value)
    with pytest.raises(DataError, match="users=all"):
        agent.batch(["u1"], out)
    assert part(out).read_bytes() == before


def test_trouble_of_the_caller_is_not_taken_for_trouble_of_the_file(agent: Agent, out: Path, whole: bytes) -> None:
    def progress(*_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        agent.batch(None, out, progress=progress)


@pytest.mark.parametrize("k", [0, 51, -1])
def test_a_bad_k_is_refused(agent: Agent, out: Path, k: int) -> None:
    with pytest.raises(ValueError, match="k="):
        agent.batch(None, out, k)
    assert there(out) == set()


def test_two_at_once_are_refused(agent: Agent, out: Path, whole: bytes) -> None:
    said: list[str] = []

    def progress(_: str, done: int, __: int) -> None:
        if done == 3:
            with pytest.raises(DataError) as caught:
                agent.batch(None, out)
            said.append(str(caught.value))
            agent.batch(["u1"], out.with_name("out-other.jsonl"))

    agent.batch(None, out, progress=progress)
    assert "another batch is writing" in said[0]
    assert out.read_bytes() == whole


def test_places_where_no_file_can_be(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        agent.batch(None, tmp_path)
    with pytest.raises(DataError, match="make it first"):
        agent.batch(None, tmp_path / "missing" / "out.jsonl")
    assert not (tmp_path / "missing").exists()


def test_an_older_file_stays_until_the_new_one_is_whole(agent: Agent, out: Path, whole: bytes) -> None:
    out.write_text("older\n")
    seen: set[str] = set()
    stopped(agent, out, 4)
    agent.batch(None, out, progress=lambda *_: seen.add(out.read_text()))
    assert seen == {"older\n"}
    assert out.read_bytes() == whole


def test_a_reader_who_is_erased_meanwhile_is_told_and_left_out(agent: Agent, out: Path) -> None:
    stopped(agent, out, 2)
    agent.erase("u5")
    report = agent.batch(None, out)
    assert report.skipped["erased meanwhile"] == ["u5"]
    assert "u5" not in [row["user"] for row in rows(out)]
    assert (report.done, report.complete) == (READERS - 1, True)


def test_a_named_reader_who_is_erased_meanwhile_counts_once(agent: Agent, out: Path) -> None:
    stopped(agent, out, 2, FEW)
    agent.erase(FEW[4])
    report = agent.batch(FEW, out)
    assert (report.users, report.done, report.skipped) == (6, 5, {"erased meanwhile": [FEW[4]]})


def test_whoever_was_passed_over_before_a_stop_is_told_in_the_end(agent: Agent, out: Path) -> None:
    stopped(agent, out, 2)
    agent.erase("u12")
    stopped(agent, out, 6)
    report = agent.batch(None, out)
    assert report.done + sum(map(len, report.skipped.values())) == report.users


def test_the_clauses_of_a_server_are_kept_for_the_next_process(home: Path, out: Path) -> None:
    with served() as server:
        for _ in range(2):
            with Agent(Settings(home=home, embedder=EMBEDDER, llm_url=server.url), clock=lambda: NOW) as agent:
                agent.batch(FEW, out)
            calls, server.asked = server.asked, []
    assert calls == []


# ---- killed ----


@pytest.fixture
def killable(processes: BaseContext, tmp_path: Path) -> Killable:
    return Killable(processes, tmp_path / "log")


def opened(home: str) -> Agent:
    agent = Agent(Settings(home=Path(home), embedder=EMBEDDER, no_llm=True), clock=lambda: NOW)
    agent.build()
    return agent


def batch_slowly(log: str, home: str, out: str) -> None:
    agent = opened(home)
    confirm(log, "begin")
    agent.batch(None, out, progress=lambda *_: time.sleep(0.01))


@pytest.mark.slow
def test_killed_at_random_moments(killable: Killable, home: Path, out: Path, whole: bytes) -> None:
    longest = killable.whole(batch_slowly, str(home), str(out))
    assert out.read_bytes() == whole
    out.write_text("older\n")
    rng, resumed, finished = random.Random(0), 0, 0
    for _ in range(20):
        killable.kill(rng.uniform(0, longest / 2), batch_slowly, str(home), str(out))
        assert out.read_bytes() in (b"older\n", whole)
        resumed += part(out).exists() and part(out).stat().st_size > 0
        if out.read_bytes() == whole and not about(out).exists():
            finished += 1
            out.write_text("older\n")
    killable.whole(batch_slowly, str(home), str(out))
    assert out.read_bytes() == whole
    assert resumed > 5
    assert finished > 0


def batch_until(log: str, home: str, out: str, number: int, restart: bool) -> None:
    """Die just before the process touches the batch's files for the n-th time."""
    agent, left = opened(home), number
    confirm(log, "begin")

    def die(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(given[0]).startswith(
            str(Path(out).parent)
        ):
            left -= "out" in Path(str(given[0])).name
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    agent.batch(FEW, out, 2, restart=restart)
    confirm(log, "done")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "restart"),
    [
        ("out.jsonl", False),
        ("out.jsonl", True),
        ("out.parquet", False),
    ],
)  # fmt: skip
def test_killed_before_each_thing_that_is_done_to_a_file(
    killable: Killable, home: Path, agent: Agent, out: Path, name: str, restart: bool
) -> None:
    out = out.with_name(name)
    agent.batch(FEW, out, 2)
    right = out.read_bytes()
    agent.batch(FEW, out, 1)
    older = out.read_bytes()
    number, lines = 0, [""]
    while lines != ["done"]:
        number += 1
        out.write_bytes(older)
        if restart:
            stopped(agent, out, 3, FEW, k=2)
        lines = killable.kill(20, batch_until, str(home), str(out), number, restart)
        assert out.read_bytes() in (older, right)
        agent.batch(FEW, out, 2)
        assert out.read_bytes() == right, number
    assert number > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_kill_leaves_nothing_behind(killable: Killable, home: Path, agent: Agent, out: Path, name: str) -> None:
    out = out.with_name(name)
    for number in range(1, 16):
        killable.kill(20, batch_until, str(home), str(out), number, False)
        agent.batch(FEW, out, 2)
        assert there(out) == {name}, number
        out.unlink()


def batch_on_a_small_disk(log: str, home: str, out: str, bytes_left: int) -> None:
    agent = opened(home)
    confirm(log, "begin")
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, resource.RLIM_INFINITY))
    said = ""
    try:
        agent.batch(None, out)
    except HomeError as exc:
        said = str(exc)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    confirm(log, said)


@pytest.mark.parametrize("bytes_left", [0, 10, 50_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    killable: Killable, home: Path, agent: Agent, out: Path, whole: bytes, bytes_left: int
) -> None:
    out.write_text("older\n")
    (said,) = killable.kill(30, batch_on_a_small_disk, str(home), str(out), bytes_left)
    assert "cannot write" in said
    assert "File too large" in said
    assert out.read_text() == "older\n"
    report = agent.batch(None, out)
    assert (report.resumed > 0) == (bytes_left > 10_000)
    assert out.read_bytes() == whole
    assert there(out) == {"out.jsonl"}


# ---- in an event loop ----


def test_cancelling_the_task_stops_the_batch(agent: Agent, out: Path, whole: bytes) -> None:
    async def run() -> None:
        begun, go, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

        def progress(_: str, done: int, __: int) -> None:
            if done == 3:
                loop.call_soon_threadsafe(begun.set)
                go.wait(20)

        task = asyncio.create_task(agent.abatch(None, out, progress=progress))
        await begun.wait()
        loop.call_later(0.05, go.set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())  # it waits for threads
    assert written_rows(out) == 3
    assert not out.exists()
    assert asyncio.run(agent.abatch(None, out)).resumed == 3
    assert out.read_bytes() == whole


def test_a_cancelled_batch_can_be_gone_on_with_at_once(agent: Agent, out: Path, whole: bytes) -> None:
    async def run() -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def progress(_: str, done: int, __: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.05)

        task = asyncio.create_task(agent.abatch(None, out, progress=progress))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await agent.abatch(None, out)

    asyncio.run(run())
    assert out.read_bytes() == whole


def test_events_come_in_order_without_blocking_the_loop(home: Path, agent: Agent) -> None:
    async def run() -> tuple[list[Any], int]:
        turns, events = 0, []

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        async for event in agent.achat("u1", "What should I read?"):
            events.append(event)
        other.cancel()
        return events, turns

    events, turns = asyncio.run(run())
    alone = list(agent.chat("u1", "What should I read?"))
    assert [type(event) for event in events] == [type(event) for event in alone]
    assert isinstance(events[-1], Answer)
    assert turns > len(events)


@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_leaving_a_conversation_stops_the_writer_and_keeps_the_turn(home: Path, how: str) -> None:
    writing, heard = threading.Event(), []

    def wait_for_the_end(cancel: threading.Event | None) -> None:
        writing.set()
        assert cancel is not None
        heard.append(cancel.wait(20))

    async def leave() -> None:
        async with aclosing(agent.achat("u1", "What should I read?")) as events:
            async for event in events:
                if isinstance(event, ItemsReady):
                    return

    async def cancel() -> None:
        async def listen() -> None:
            async for _ in agent.achat("u1", "What should I read?"):
                pass

        task = asyncio.create_task(listen())
        await asyncio.to_thread(writing.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with written_by(home, Writer(1, wait_for_the_end)) as agent:
        asyncio.run(leave() if how == "leave" else cancel())
        (conversation,) = agent.conversations("u1")
        asked_for, answered = agent.turns(conversation[0])
        assert (asked_for.text, answered.role) == ("What should I read?", "agent")
        assert len(answered.answer["items"]) == 5
    assert heard == [True] * (how == "cancel")
