"""On a Ray cluster the file is the one that this process would have made alone, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.batch_world import FEW, READERS, WriterServer, part, rows, served, there
from tests.conftest import EMBEDDER, ROOT
from tests.world import NOW
from whyfeed.agent.agent import Agent
from whyfeed.agent.answer import Answer
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import HomeError

pytestmark = [
    pytest.mark.slow,
    # Of Ray itself, which leaves pipes and sockets of its processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _no_cluster_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without a cluster, and leaves none behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    if (ray := sys.modules.get("ray")) is not None:
        left = ray.is_initialized()
        ray.shutdown()
        assert not left, "the batch left its cluster running"


@pytest.fixture
def server() -> Iterator[WriterServer]:
    with served() as opened:
        yield opened


def opened(home: Path, server: WriterServer | None = None) -> Agent:
    llm = {"no_llm": True} if server is None else {"llm_url": server.url, "llm_model": "small"}
    return Agent(Settings(home=home, embedder=EMBEDDER, **llm), clock=lambda: NOW)  # type: ignore[arg-type]


def workers(of: str) -> list[int]:
    """The processes of this machine that are actors of that class."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and (folder / "cmdline").read_bytes().startswith(b"ray::")
                and of in (folder / "cmdline").read_text()
            ):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended meanwhile
    return found


def kill(process: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return process


@pytest.fixture
def whole(home: Path, tmp_path: Path) -> bytes:
    """The file of threads of this process, without a language model."""
    with opened(home) as agent:
        agent.batch(None, tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_the_file_is_the_same(home: Path, out: Path, name: str) -> None:
    out, alone = out.with_name(name), out.with_name(f"alone{Path(name).suffix}")
    with opened(home) as agent:
        agent.batch(None, alone)
        report = agent.batch(None, out, ray=True)
    assert out.read_bytes() == alone.read_bytes()
    assert (report.done, report.posts, report.complete) == (READERS, 5 * READERS, True)
    assert report.seconds["rank"] > 0
    assert there(out) == {name}


def test_named_readers_one_of_whom_is_gone(home: Path, out: Path) -> None:
    with opened(home) as agent:
        report = agent.batch([*FEW, "nobody", FEW[0]], out, 3, ray=True)
    assert [row["user"] for row in rows(out)] == list(FEW)
    assert report.skipped == {"unknown user": ["nobody"]}


def test_a_clause_is_asked_for_once_and_kept_in_the_home(
    home: Path, out: Path, server: WriterServer, tmp_path: Path
) -> None:
    with opened(home, server) as agent:
        report = agent.batch(None, out, ray=True)
        posts = [agent.post(id) for id in {item["post"]["id"] for row in rows(out) for item in row["items"]}]
        once = Counter(f"{post.title}\n\n{post.text}" for post in posts if post.text and post.language == "en")
        assert Counter(text for text in server.asked if text in once) == once
        assert report.reasons["llm"] > READERS
        assert report.tokens == {"prompt": 100 * len(server.asked), "written": 10 * len(server.asked)}
        calls = len(server.asked)
        agent.batch(None, tmp_path / "threads.jsonl")
        agent.batch(None, tmp_path / "actors.jsonl", ray=True)
        assert len(server.asked) == calls
    for other in ("threads", "actors"):
        assert (tmp_path / f"{other}.jsonl").read_bytes() == out.read_bytes()


def test_actors_write_what_threads_write(home: Path, out: Path, server: WriterServer, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(home, tmp_path / "other")
    with opened(tmp_path / "other", server) as agent:
        agent.batch(None, tmp_path / "threads.jsonl")
    with opened(home, server) as agent:
        agent.batch(None, out, ray=True)
    assert out.read_bytes() == (tmp_path / "threads.jsonl").read_bytes()


def test_a_writer_that_dies_is_started_again(home: Path, out: Path, server: WriterServer, tmp_path: Path) -> None:
    server.seconds = 0.3
    killed: list[int] = []

    def kill_when_it_writes() -> None:
        while not server.asked:
            time.sleep(0.01)
        killed.append(kill(workers("_Writer")[0]))

    with opened(home, server) as agent:
        thread = threading.Thread(target=kill_when_it_writes)
        thread.start()
        agent.batch(None, out, ray=True)
        thread.join()
        agent.batch(None, tmp_path / "threads.jsonl")
    assert killed
    assert out.read_bytes() == (tmp_path / "threads.jsonl").read_bytes()
    assert '"source": "llm"' in out.read_text()


def test_rankers_that_die_are_started_again(home: Path, out: Path, whole: bytes) -> None:
    killed: list[int] = []

    def kill_at_the_start() -> None:
        while not (found := workers("MapWorker")):
            time.sleep(0.01)
        killed.append(kill(found[0]))

    def kill_after_the_first(_: str, done: int, __: int) -> None:
        if done == 1:
            killed.extend(kill(worker) for worker in workers("MapWorker"))

    with opened(home) as agent:
        thread = threading.Thread(target=kill_at_the_start)
        thread.start()
        report = agent.batch(None, out, ray=True, progress=kill_after_the_first)
        thread.join()
    assert len(killed) > 1
    assert report.complete
    assert out.read_bytes() == whole


def test_stopped_on_a_cluster_it_goes_on_without(home: Path, out: Path, whole: bytes) -> None:
    cancel = threading.Event()
    with opened(home) as agent:
        report = agent.batch(
            None, out, ray=True, cancel=cancel, progress=lambda _, done, __: cancel.set() if done == 7 else None
        )
        assert (report.complete, report.done) == (False, 7)
        assert part(out).read_bytes() == whole[: part(out).stat().st_size]
        report = agent.batch(None, out)
    assert report.resumed == 7
    assert out.read_bytes() == whole


def test_stopped_alone_it_goes_on_on_a_cluster(home: Path, out: Path, whole: bytes) -> None:
    cancel = threading.Event()
    with opened(home) as agent:
        agent.batch(None, out, cancel=cancel, progress=lambda _, done, __: cancel.set() if done == 7 else None)
        assert agent.batch(None, out, ray=True).resumed == 7
    assert out.read_bytes() == whole


def test_stopped_while_actors_write(home: Path, out: Path, server: WriterServer, tmp_path: Path) -> None:
    server.seconds = 0.3
    cancel = threading.Event()

    def stop_when_they_write() -> None:
        while len(server.asked) < 5:
            time.sleep(0.01)
        cancel.set()

    with opened(home, server) as agent:
        begun = time.monotonic()
        thread = threading.Thread(target=stop_when_they_write)
        thread.start()
        assert not agent.batch(None, out, ray=True, cancel=cancel).complete
        thread.join()
        assert time.monotonic() - begun < 60
        server.seconds = 0.0
        agent.batch(None, out)
        agent.batch(None, tmp_path / "threads.jsonl")
    assert out.read_bytes() == (tmp_path / "threads.jsonl").read_bytes()


def test_the_home_answers_while_a_cluster_works(home: Path, out: Path, whole: bytes) -> None:
    answers: list[Answer] = []
    with opened(home) as agent:
        agent.batch(None, out, ray=True, progress=lambda *_: answers.append(agent.recommend("u1", write=False)))
    assert len(answers) == READERS
    assert out.read_bytes() == whole


def running_commands() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield file.read_bytes()


@pytest.mark.parametrize(
    "address",
    [
        "auto",
        "127.0.0.1:9",
    ],
)  # fmt: skip
def test_a_cluster_that_is_not_there_is_one_line(home: Path, out: Path, address: str) -> None:
    end = time.monotonic() + 60  # "auto" also finds one of another test that is still going down
    while any(b"gcs_server" in command for command in running_commands()):
        assert time.monotonic() < end, "a Ray cluster runs on this machine"
        time.sleep(0.2)
    done = subprocess.run(
        [sys.executable, "-m", "whyfeed", "batch", "--all", "--no-llm", "--ray", "--out", str(out)],
        capture_output=True, text=True, cwd=ROOT, timeout=30,
        env={**os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "RAY_ADDRESS": address},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "RAY_ADDRESS" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_ray_it_says_what_to_install(home: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with opened(home) as agent, pytest.raises(HomeError, match=r"whyfeed\[ray\]"):
        agent.batch(FEW, out, ray=True)
