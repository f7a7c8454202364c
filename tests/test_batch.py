"""What a batch writes, in which order, how often the writer is asked, and how it is told on the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.batch_world import (
    FEW,
    READERS,
    Writer,
    WriterServer,
    describe,
    rows,
    served,
    there,
    written_by,
    written_rows,
)
from tests.checks import check_items, check_shape
from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.world import NOW, World
from whyfeed.agent.agent import Agent
from whyfeed.agent.batch import runner as batch
from whyfeed.agent.batch.workers import LocalWorkers, Wanted
from whyfeed.agent.llm.scripted import ScriptedEngine
from whyfeed.agent.reasons.explainer import Prepared
from whyfeed.agent.runtime import Runtime
from whyfeed.agent.settings import Settings

# ---- what is in the file ----


def test_everybody_gets_a_row_of_the_contract_in_order(agent: Agent, out: Path, world: World) -> None:
    report = agent.batch(None, out, k=4)
    found = rows(out)
    assert [row["user"] for row in found] == sorted(user for user, taste in world.tastes.items() if taste)
    for row in found:
        assert len(row["items"]) == 4
        check_items(agent, row["user"], row["items"])
        trace = agent.recommend(row["user"], write=False).to_json()["trace"]
        check_shape({**row, "trace": trace}, "recommend")
    assert (report.done, report.posts, report.short, report.complete) == (READERS, 4 * READERS, 0, True)
    assert there(out) == {"out.jsonl"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_row_is_what_recommend_answers(home: Path, out: Path, language: Any) -> None:
    with written_by(home, Writer()) as agent:
        report = agent.batch(FEW, out, language=language)
        assert report.complete
        for row in rows(out):
            answer = agent.recommend(row["user"], language=language, write=False)
            assert row["items"] == answer.to_json()["items"]
    assert {item["reason"]["source"] for row in rows(out) for item in row["items"]} >= {
        "llm" if language == "en" else "extract"
    }


def test_named_users_come_once_in_their_order_and_unknown_ones_are_told(agent: Agent, out: Path) -> None:
    report = agent.batch(["u9", "nobody", "u2", "u9", "newcomer", "ghost", "u2"], out)
    assert [row["user"] for row in rows(out)] == ["u9", "u2", "newcomer"]
    assert report.skipped == {"unknown user": ["nobody", "ghost"]}
    assert (report.users, report.done) == (5, 3)


def test_nobody_is_an_empty_file(agent: Agent, out: Path) -> None:
    report = agent.batch([], out)
    assert (report.complete, report.done, out.read_bytes()) == (True, 0, b"")


def test_everybody_means_those_with_enough_events(agent: Agent, out: Path) -> None:
    counts = {user.id: len(agent.events(user.id, 10_000)) for user in agent.store.all_users()}
    for least in (0, 1, 10):
        report = agent.batch(None, out, k=2, min_events=least)
        enough = sorted(user for user, count in counts.items() if count >= least)
        assert [row["user"] for row in rows(out)] == enough
        few = sorted(set(counts) - set(enough))
        assert report.skipped == ({f"fewer than {least} events": few} if few else {})
    assert 0 < len(enough) < READERS


def test_parquet_says_the_same_as_json_lines(agent: Agent, out: Path) -> None:
    import pyarrow.parquet as pq

    agent.batch(None, out)
    parquet = out.with_suffix(".parquet")
    report = agent.batch(None, parquet)
    assert report.complete
    table = pq.read_table(parquet).to_pylist()
    assert [row["user"] for row in table] == [row["user"] for row in rows(out)]
    for read, row in zip(table, rows(out), strict=True):
        for found, item in zip(read["items"], row["items"], strict=True):
            assert dict(found.pop("signals")) == item.pop("signals")
            for claim, wanted in zip(found["reason"]["claims"], item["reason"]["claims"], strict=True):
                evidence = [
                    {name: value for name, value in one.items() if value is not None} for one in claim["evidence"]
                ]
                assert evidence == [
                    {name: value for name, value in one.items() if value is not None} for one in wanted["evidence"]
                ]
                claim["evidence"] = wanted["evidence"]
            assert {name: found[name] for name in item} == item
    assert there(out) == {"out.jsonl", "out.parquet"}


def test_parquet_without_pyarrow_says_what_to_install(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "pyarrow.py").write_text("raise ModuleNotFoundError('No module named pyarrow')")
    path = os.pathsep.join((str(tmp_path / "without"), str(ROOT / "src")))
    done = run_cli("batch", "--all", "--no-llm", "--out", str(tmp_path / "lists.parquet"), PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'whyfeed[parquet]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("lists*"))
    assert run_cli("batch", "--all", "--no-llm", "--out", str(tmp_path / "l.jsonl"), PYTHONPATH=path).returncode == 0


# ---- the writer ----


def test_a_clause_is_asked_for_once_for_all_readers_and_never_again(home: Path, out: Path) -> None:
    with written_by(home, engine := Writer()) as agent:
        report = agent.batch(None, out)
        posts = {item["post"]["id"] for row in rows(out) for item in row["items"]}
        # With nothing but a title there is nothing to ask about; a Chinese post is read in several ways.
        written = [agent.post(id) for id in posts]
        once = Counter(f"{post.title}\n\n{post.text}" for post in written if post.text and post.language == "en")
        assert Counter(text for text in engine.asked() if text in once) == once
        assert report.posts > 2 * once.total() > 0
        assert report.reasons["llm"] + report.reasons.get("extract", 0) == report.posts == 5 * READERS
        assert report.tokens["prompt"] == sum(len(m["content"].split()) for c in engine.history for m in c.messages)
        assert report.tokens["written"] == sum(len(describe(call.messages).split()) for call in engine.history)
        assert set(report.seconds) == {"rank", "write", "wait", "all"}
        first = out.read_bytes()
        calls = len(engine.history)
        assert agent.batch(None, out).tokens == {"prompt": 0, "written": 0}
        assert len(engine.history) == calls
        assert out.read_bytes() == first


def test_without_write_the_writer_is_not_asked(home: Path, out: Path) -> None:
    with written_by(home, engine := Writer()) as agent:
        report = agent.batch(FEW, out, write=False)
    assert (engine.history, set(report.reasons)) == ([], {"extract"})


@pytest.mark.parametrize("in_flight", [1, 3])
def test_as_many_calls_run_at_once_as_the_writer_serves(home: Path, out: Path, in_flight: int) -> None:
    engine = Writer(in_flight)

    def until_busy(_: threading.Event | None) -> None:
        with engine.changed:
            engine.changed.wait_for(lambda: engine.most >= in_flight, 10)
        time.sleep(0.005)  # for one too many to come

    engine.meanwhile = until_busy
    with written_by(home, engine) as agent:
        agent.batch(None, out)
    assert engine.most == in_flight


def core_of(home: Path, engine: ScriptedEngine | None = None) -> Runtime:
    core = Runtime(Settings(home=home, embedder=EMBEDDER, no_llm=engine is None), lambda: NOW)
    if engine is not None:
        core.models.put("writer", engine)
    return core


def test_readers_are_ranked_while_the_writer_writes(home: Path, out: Path) -> None:
    everybody_ranked = threading.Event()
    waited: list[bool] = []

    class Watched(LocalWorkers):
        def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
            yield from super().ranked(users)
            everybody_ranked.set()

    core = core_of(home, Writer(2, lambda _: waited.append(everybody_ranked.wait(20))))
    try:
        report = batch.run(core, out, Wanted(), workers=Watched)
    finally:
        core.close()
    assert report.complete
    assert all(waited)


def test_what_breaks_while_ranking_leaves_a_run_that_goes_on(home: Path, out: Path, whole: bytes) -> None:
    class Breaking(LocalWorkers):
        def ranked(self, users: Sequence[str]) -> Iterator[tuple[str, list[Prepared] | None, float]]:
            for user, prepared, seconds in super().ranked(users):
                if user == "u3":
                    raise RuntimeError("a bug")
                yield user, prepared, seconds

    core = core_of(home)
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            batch.run(core, out, Wanted(), workers=Breaking)
        assert not out.exists()
        report = batch.run(core, out, Wanted())
    finally:
        core.close()
    assert report.resumed > 0
    assert out.read_bytes() == whole


def test_a_clause_that_breaks_leaves_a_run_that_goes_on(home: Path, out: Path) -> None:
    broken = [True]

    def trouble(_: threading.Event | None) -> None:
        if broken[0] and len(engine.history) > 12:
            raise RuntimeError("a bug")

    with written_by(home, engine := Writer(1, trouble)) as agent:
        with pytest.raises(RuntimeError, match="a bug"):
            agent.batch(None, out)
        broken[0] = False
        report = agent.batch(None, out)
        assert report.resumed > 0
        agent.batch(None, out.with_name("again.jsonl"))
    assert out.read_bytes() == out.with_name("again.jsonl").read_bytes()


# ---- on the command line ----


def test_the_command_makes_the_file_and_reports(run_cli: RunCli, agent: Agent, out: Path, whole: bytes) -> None:
    done = run_cli("batch", "--all", "--out", str(out), "--no-llm", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {
        "out", "users", "done", "resumed", "short", "posts", "skipped", "reasons", "tokens", "seconds", "complete"
    }  # fmt: skip
    assert (report["done"], report["posts"], report["complete"]) == (READERS, 5 * READERS, True)
    assert out.read_bytes() == whole
    assert len(done.stderr.splitlines()) == 10
    assert all(line.startswith("readers: ") and "a minute" in line for line in done.stderr.splitlines())


def test_the_command_takes_users_from_a_file(run_cli: RunCli, out: Path, tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes("\ufeffu3\r\n\r\n u1 \nnobody\nu3\n".encode())
    done = run_cli("batch", "--users", str(tmp_path / "users"), "--out", str(out), "-k", "2", "--no-llm")
    assert done.returncode == 0, done.stderr
    assert [(row["user"], len(row["items"])) for row in rows(out)] == [("u3", 2), ("u1", 2)]
    assert "2 readers with 4 posts" in done.stdout
    assert "unknown user: 1 (nobody)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "--all or --users"),
        (["--all", "--users", "x"], 2, "--all or --users"),
        (["--all", "--language", "fr"], 2, "fr"),
        (["--all", "--min-events", "-1"], 2, "--min-events"),
        (["--users", "no-such-file"], 1, "no-such-file"),
        (["--users", "tests"], 1, "tests"),
        (["--all", "--out", "no/such/folder/out.jsonl"], 1, "make it first"),
        (["--all", "--out", "tests"], 1, "is a folder"),
    ],
)
def test_wrong_commands_are_one_clear_line(
    run_cli: RunCli, out: Path, arguments: list[str], code: int, text: str
) -> None:
    done = run_cli("batch", "--out", str(out), *arguments, "--no-llm")
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    # What the command line's own parser refuses comes in its frame.
    assert len(done.stderr.splitlines()) == 1 or "Usage" in done.stderr
    assert there(out) == set()


def start(home: Path, out: Path, server: WriterServer) -> subprocess.Popen[str]:
    """The command with a writer behind a server, whose SIGINT is heard however the tests were started."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from whyfeed.ui.cli.main import main; main()"
    )
    environment = {
        **os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_LLM_URL": server.url,
        "WHYFEED_LLM_MODEL": "small", "WHYFEED_LLM_IN_FLIGHT": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", program, "batch", "--all", "--out", str(out), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_the_next_run_goes_on(home: Path, out: Path) -> None:
    with served() as server:
        server.seconds = 0.1
        process = start(home, out, server)
        while not written_rows(out) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=60)
        assert (process.returncode, said) == (1, "")
        lines = [line for line in wrong.splitlines() if not line.startswith("readers: ")]
        assert lines == ["whyfeed: stopped; run the same command again to go on"]
        assert not out.exists()
        server.seconds = 0.0
        process = start(home, out, server)
        said, wrong = process.communicate(timeout=60)
        assert process.returncode == 0, wrong
        report = json.loads(said)
        assert 0 < report["resumed"] < READERS == report["done"]
        assert there(out) == {"out.jsonl"}


@pytest.mark.slow
def test_the_command_killed_again_and_again(home: Path, out: Path, tmp_path: Path) -> None:
    rng, kills, places = random.Random(0), 0, set()
    with served() as server:
        server.seconds = 0.1
        while not out.exists():
            process = start(home, out, server)
            # In turns: at any moment from the start on, and between two rows.
            pause = time.monotonic() + (1000 if kills % 2 else rng.uniform(0.2, 2.5))
            enough = written_rows(out) + rng.randrange(1, 3) if kills % 2 else READERS + 1
            while process.poll() is None and time.monotonic() < pause and written_rows(out) < enough:
                time.sleep(0.001)
            process.kill()
            process.communicate(timeout=60)
            kills += process.returncode == -signal.SIGKILL
            places.add(written_rows(out))
        server.seconds = 0.0
        start(home, out, server).communicate(timeout=60)  # the last one may have died after the renaming
        undisturbed = tmp_path / "undisturbed.jsonl"
        start(home, undisturbed, server).communicate(timeout=60)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert there(out) == {"out.jsonl"}
    assert kills > 2
    assert len(places) > 2
