"""Batch jobs over HTTP: their way from waiting to done, stopping them, and going on after the process has ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDER
from tests.test_service import Asking, bearer, serving
from whyfeed import Agent
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.progress import Progress
from whyfeed.ui.http.jobs import Batch, Jobs, Unfinished, UnknownJob

ADMIN = bearer("the operator's own")


@dataclass
class Report:
    users: int
    out: str

    def to_json(self) -> dict[str, Any]:
        return {"done": self.users, "out": self.out}


@dataclass
class Worker:
    """Makes a row a user, resumes from OUT.part, and does `pace` more rows before it waits to be told to go on."""

    pace: int = 1000
    go_on: threading.Event = field(default_factory=threading.Event)
    at_once: int = 0
    most_at_once: int = 0
    failure: Exception | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    def batch(
        self,
        users: Sequence[str] | None,
        out: Path,
        k: int = 5,
        *,
        write: bool = True,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Report:
        assert cancel is not None
        assert progress is not None
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.failure is not None:
                raise self.failure
            order = ["everybody"] if users is None else list(users)
            self.asked.append(tuple(order))
            part = out.with_name(out.name + ".part")
            there = part.read_text().splitlines() if part.exists() else []
            for number, user in enumerate(order[len(there) :], 1):
                while number > self.pace and not cancel.is_set() and not self.go_on.wait(0.01):
                    pass
                if cancel.is_set():
                    return Report(len(there), str(out))
                there.append(json.dumps({"user": user, "k": k, "write": write}))
                part.write_text("".join(line + "\n" for line in there))
                self.made.append(user)
                progress("readers", len(there), len(order))
            part.replace(out)
            return Report(len(order), str(out))
        finally:
            self.at_once -= 1


def until(condition: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[Worker], Jobs]]:
    opened: list[Jobs] = []

    def start(worker: Worker) -> Jobs:
        jobs = Jobs(tmp_path, worker)
        jobs.start()
        opened.append(jobs)
        return jobs

    yield start
    for jobs in opened:
        jobs.stop()


Start = Callable[[Worker], Jobs]


def rows(jobs: Jobs, id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in jobs.result(id).read_text().splitlines()]


def test_jobs_run_one_after_the_other_in_the_order_of_their_coming(started: Start) -> None:
    worker = Worker()
    jobs = started(worker)
    ids = [jobs.add(Batch(users=[f"u{number}", "v"], k=number + 1)).id for number in range(4)]
    until(lambda: all(jobs.get(id).state == "done" for id in ids))
    assert worker.most_at_once == 1
    assert worker.asked == [(f"u{number}", "v") for number in range(4)]
    assert rows(jobs, ids[2]) == [{"user": user, "k": 3, "write": True} for user in ("u2", "v")]
    job = jobs.get(ids[0])
    assert (job.done, job.total, job.report, job.error) == (2, 2, {"done": 2}, None)


def test_a_job_tells_how_far_it_is(started: Start) -> None:
    worker = Worker(pace=2)
    jobs = started(worker)
    first, second = jobs.add(Batch(users=["a", "b", "c"])), jobs.add(Batch())
    job = until(lambda: (job := jobs.get(first.id)).done == 2 and job)
    assert (job.state, job.total) == ("running", 3)
    assert jobs.get(second.id).state == "waiting"
    for id in (first.id, second.id):
        with pytest.raises(Unfinished):
            jobs.result(id)
    worker.go_on.set()
    until(lambda: jobs.get(second.id).state == "done")
    assert rows(jobs, second.id)[0]["user"] == "everybody"


def test_jobs_go_on_where_the_process_ended(started: Start) -> None:
    first = Worker(pace=2)
    jobs = started(first)
    running, waiting = jobs.add(Batch(users=["a", "b", "c", "d"])), jobs.add(Batch(users=["e"], llm=False))
    until(lambda: first.made == ["a", "b"])
    jobs.stop()
    second = Worker()
    jobs = started(second)
    until(lambda: jobs.get(waiting.id).state == "done")
    assert second.made == ["c", "d", "e"]
    assert [row["user"] for row in rows(jobs, running.id)] == ["a", "b", "c", "d"]
    assert rows(jobs, waiting.id)[0]["write"] is False


def test_of_two_services_over_one_home_one_works_until_it_ends(started: Start) -> None:
    first, second = Worker(pace=1), Worker()
    one = started(first)
    id = one.add(Batch(users=["a", "b", "c"])).id
    until(lambda: first.made)
    other = started(second)
    assert other.get(id).state == "running"
    time.sleep(0.1)
    assert second.asked == []
    one.stop()
    until(lambda: other.get(id).state == "done")
    assert second.made == ["b", "c"]


def test_a_job_is_cancelled_while_it_waits_or_runs(started: Start, tmp_path: Path) -> None:
    worker = Worker(pace=1)
    jobs = started(worker)
    running, waiting, last = (jobs.add(Batch(users=["a", "b"])).id for _ in range(3))
    until(lambda: worker.made)
    assert jobs.cancel(waiting).state == jobs.get(waiting).state == "cancelled"
    assert jobs.cancel(running).state == jobs.get(running).state == "cancelled"
    worker.go_on.set()
    until(lambda: jobs.get(last).state == "done")
    assert len(worker.asked) == 2
    assert jobs.get(running).state == jobs.get(waiting).state == "cancelled"
    assert not list((tmp_path / "jobs" / running).glob("result.*"))
    with pytest.raises(Unfinished):
        jobs.result(running)


def test_a_job_that_has_ended_is_removed(started: Start, tmp_path: Path) -> None:
    jobs = started(Worker())
    id = jobs.add(Batch(users=["a"])).id
    until(lambda: jobs.get(id).state == "done")
    jobs.cancel(id)
    assert not (tmp_path / "jobs" / id).exists()
    with pytest.raises(UnknownJob):
        jobs.get(id)


@pytest.mark.parametrize(
    ("failure", "told"), [(DataError("no such folder"), "no such folder"), (RuntimeError("a secret"), "internal error")]
)
def test_a_job_that_fails_says_why_and_others_go_on(started: Start, failure: Exception, told: str) -> None:
    worker = Worker(failure=failure)
    jobs = started(worker)
    id = jobs.add(Batch()).id
    job = until(lambda: (job := jobs.get(id)).state == "failed" and job)
    assert job.error == told
    worker.failure = None
    after = jobs.add(Batch()).id
    until(lambda: jobs.get(after).state == "done")


@pytest.mark.parametrize("id", ["", ".", "..", "0" * 31, "A" * 32, "0" * 32, "../" + "0" * 32, "0" * 32 + "\n", "\x00"])
def test_what_is_no_id_never_reaches_the_disk(started: Start, tmp_path: Path, id: str) -> None:
    (tmp_path / "asked.json").write_text("{}")
    jobs = started(Worker())
    for ask in (jobs.get, jobs.result, jobs.cancel):
        with pytest.raises(UnknownJob):
            ask(id)
    assert (tmp_path / "asked.json").exists()


# ---- over HTTP, by the agent itself


@pytest.fixture
def client(home: Path) -> Iterator[Asking]:
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as agent, serving(agent) as opened:
        yield opened


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_lists_for_many_users_come_as_one_file(client: Asking, tmp_path: Path, form: str) -> None:
    body = {"users": ["u0", "u1", "nobody"], "k": 3, "llm": False, "format": form}
    started = client.post("/v1/batch", json=body, headers=ADMIN)
    assert started.status_code == 202
    place = f"/v1/batch/{started.json()['id']}"
    done = until(lambda: (job := client.get(place, headers=ADMIN).json())["state"] == "done" and job)
    assert (done["done"], done["report"]["skipped"]) == (2, {"unknown user": ["nobody"]})
    assert str(tmp_path) not in json.dumps(done)
    answer = client.get(f"{place}/result", headers=ADMIN)
    if form == "jsonl":
        found = [json.loads(line) for line in answer.text.splitlines()]
    else:
        import io

        import pyarrow.parquet

        found = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    assert {row["user"] for row in found} == {"u0", "u1"}
    assert "whyfeed_batch_users_total 2.0" in client.get("/metrics", headers=ADMIN).text
    assert client.delete(place, headers=ADMIN).status_code == 200
    assert client.get(place, headers=ADMIN).status_code == 404


def test_a_job_without_a_result_says_so(client: Asking) -> None:
    assert client.get(f"/v1/batch/{'0' * 32}/result", headers=ADMIN).status_code == 404
    assert client.post("/v1/batch", json={"users": []}, headers=ADMIN).status_code == 422
    assert client.post("/v1/batch", json={"format": "csv"}, headers=ADMIN).status_code == 422
