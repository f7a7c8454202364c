"""Batch jobs over HTTP: lists for many users, made in the background, one job after the other.

A job is a folder of the home, jobs/ID/: what was asked for (asked.json), its progress (state.json), and its result.
So a job survives the process: one that waited or ran is continued at the next start, from the rows that
`agent.batch.runner` finds. Of several processes over one home only one works on jobs.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter
from fastapi.responses import FileResponse
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field

from whyfeed.agent.arguments import Arguments, UserId
from whyfeed.agent.batch.erasure import ERASED, JOBS, guard
from whyfeed.retrieval.errors import DataError, WhyfeedError, one_line
from whyfeed.retrieval.files import write_whole
from whyfeed.retrieval.progress import Progress

State = Literal["waiting", "running", "done", "failed", "cancelled"]
MEDIA = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}

_LOOK_SECONDS = 1.0  # between two looks for jobs that came to another process over the same home
_NOTE_SECONDS = 1.0  # between two writes of the progress
_ID = re.compile(r"[0-9a-f]{32}")
_ENDED = ("done", "failed", "cancelled")

_log = logging.getLogger(__name__)


class UnknownJob(DataError):
    """No such batch job in this home."""

    def __init__(self, id: str) -> None:
        super().__init__(f"unknown batch job {id!r}; POST /v1/batch starts one and answers its id")


class Unfinished(DataError):
    """The job has no result (yet)."""


class Batch(Arguments):
    """A batch job."""

    users: Annotated[list[UserId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="Ids of the users; null: everybody."
    )
    k: int = Field(5, ge=1, le=50, description="How many posts for each.")
    llm: bool = Field(True, description="Write missing reasons with the language model; false: quote the posts.")
    format: Literal["jsonl", "parquet"] = Field("jsonl", description="Of the result: JSON Lines or Parquet.")


class Job(BaseModel):
    """How a batch job stands."""

    id: str
    state: State
    done: Annotated[int, Field(description="Users who have a list.")] = 0
    total: Annotated[int, Field(description="Users to serve; 0 until it is known.")] = 0
    report: Annotated[dict[str, Any] | None, Field(description="How it went, once it is done.")] = None
    error: Annotated[str | None, Field(description="Why it failed.")] = None


class Batches(Protocol):
    """What a job needs of an agent."""

    def batch(
        self,
        users: list[str] | None,
        out: Path,
        k: int = 5,
        *,
        write: bool = True,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Any:
        """See `Agent.batch`."""
        ...


@dataclass(slots=True)
class _Running:
    """The running job, as this process knows it."""

    id: str
    cancel: threading.Event
    done: int | None = None
    total: int = 0
    noted: float = 0.0


class Jobs:
    """The batch jobs of a home. `counted` is called with the number of users whose list was just made."""

    def __init__(self, home: Path, agent: Batches, counted: Callable[[int], None] = lambda more: None) -> None:
        self._home = home
        self._folder = home / JOBS
        self._agent = agent
        self._counted = counted
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start working in the background; jobs of an earlier process are continued."""
        self._thread = threading.Thread(target=self._work, name="whyfeed-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop between two users; the job is continued at the next start."""
        self._stopping.set()
        self._news.set()
        with self._lock:
            if self._running is not None:
                self._running.cancel.set()
        if self._thread is not None:
            self._thread.join()

    def add(self, asked: Batch) -> Job:
        """Queue a job."""
        id = secrets.token_hex(16)
        folder = self._folder / id
        folder.mkdir(parents=True)
        write_whole(folder / "asked.json", json.dumps({**asked.model_dump(), "created": time.time()}).encode())
        self._news.set()
        return Job(id=id, state="waiting")

    def get(self, id: str) -> Job:
        """How a job stands. UnknownJob when there is none."""
        folder = self._at(id)
        job = self._noted(id)
        with self._lock:
            if job.state == "running" and self._running is not None and self._running.id == id:
                job.done, job.total = self._running.done or job.done, self._running.total or job.total
        if job.state not in _ENDED and (folder / "cancelled").exists():
            job.state = "cancelled"
        return job

    def result(self, id: str) -> Path:
        """The file that a job made. UnknownJob, or Unfinished when it made none (yet)."""
        job = self.get(id)
        path = self._out(id)
        if job.state != "done" or not path.exists():
            raise Unfinished(f"batch job {id!r} is {job.state} and has no result; GET /v1/batch/{id} follows it")
        return path

    def cancel(self, id: str) -> Job:
        """Stop a job that has not ended; remove one that has, with its result."""
        job = self.get(id)
        if self._noted(id).state in _ENDED:
            with guard(self._home):
                shutil.rmtree(self._folder / id, ignore_errors=True)
            return job
        # A file, because another process may be doing the work.
        (self._folder / id / "cancelled").touch()
        with self._lock:
            if self._running is not None and self._running.id == id:
                self._running.cancel.set()
        self._news.set()
        job.state = "cancelled"
        return job

    # ---- inside ----

    def _at(self, id: str) -> Path:
        folder = self._folder / id if _ID.fullmatch(id) else None
        if folder is None or not (folder / "asked.json").exists():
            raise UnknownJob(id)
        return folder

    def _asked(self, id: str) -> dict[str, Any]:
        return dict(json.loads((self._folder / id / "asked.json").read_bytes()))

    def _out(self, id: str) -> Path:
        return self._folder / id / f"result.{self._asked(id)['format']}"

    def _noted(self, id: str) -> Job:
        try:
            return Job.model_validate_json((self._folder / id / "state.json").read_bytes())
        except FileNotFoundError:
            return Job(id=id, state="waiting")

    def _note(self, job: Job) -> None:
        with guard(self._home):
            asked = self._asked(job.id)["users"]
            if job.report is not None and asked is not None and "skipped" in job.report:
                # Who has been erased is no longer in the list of those who were asked for.
                named = {*asked, ERASED}
                skipped = {cause: [id for id in ids if id in named] for cause, ids in job.report["skipped"].items()}
                job.report["skipped"] = {cause: ids for cause, ids in skipped.items() if ids}
            write_whole(self._folder / job.id / "state.json", job.model_dump_json().encode())

    def _next(self) -> str | None:
        """The oldest job that has not ended, also one that a killed process had begun."""
        waiting = [
            (self._asked(path.parent.name)["created"], path.parent.name)
            for path in self._folder.glob("*/asked.json")
            if _ID.fullmatch(path.parent.name) and self._noted(path.parent.name).state not in _ENDED
        ]
        return min(waiting)[1] if waiting else None

    def _work(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / ".lock", timeout=0)
        while not self._stopping.is_set():
            try:
                with lock:
                    self._work_alone()
            except Timeout:
                self._stopping.wait(_LOOK_SECONDS)

    def _work_alone(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            try:
                id = self._next()
                if id is not None:
                    self._run(id)
                    continue
            except (OSError, ValueError, WhyfeedError):
                # A full disk, or a folder that was removed by hand: other jobs may still work.
                _log.exception("batch jobs cannot go on for now")
                self._stopping.wait(_LOOK_SECONDS)
            self._news.wait(_LOOK_SECONDS)

    def _run(self, id: str) -> None:
        asked, out, job = self._asked(id), self._out(id), self._noted(id)
        running = _Running(id, threading.Event())
        with self._lock:
            self._running = running
        try:
            if self._is_unwanted(running):
                self._end_cancelled(job)
                return
            job.state = "running"
            self._note(job)
            try:
                report = self._agent.batch(
                    asked["users"], out, asked["k"], write=asked["llm"], cancel=running.cancel,
                    progress=lambda what, done, total: self._follow(running, job, done, total),
                ).to_json()  # fmt: skip
            except Exception as exc:
                expected = isinstance(exc, WhyfeedError | ValueError)
                if not expected:
                    _log.exception("batch job %s failed", id)
                job.state, job.error = "failed", one_line(exc, None) if expected else "internal error"
                self._note(job)
                return
            if out.exists():
                report.pop("out", None)  # the answer must not tell where the home is
                job.done = report.get("done", job.done)
                job.state, job.report = "done", report
                self._note(job)
            elif (self._folder / id / "cancelled").exists():
                self._end_cancelled(job)
        finally:
            with self._lock:
                self._running = None

    def _follow(self, running: _Running, job: Job, done: int, total: int) -> None:
        # Rows of an earlier run were counted then.
        self._counted(1 if running.done is None else max(0, done - running.done))
        running.done = job.done = done
        running.total = job.total = total
        if time.monotonic() - running.noted > _NOTE_SECONDS:
            running.noted = time.monotonic()
            self._note(job)
            self._is_unwanted(running)

    def _is_unwanted(self, running: _Running) -> bool:
        if self._stopping.is_set() or (self._folder / running.id / "cancelled").exists():
            running.cancel.set()
        return running.cancel.is_set()

    def _end_cancelled(self, job: Job) -> None:
        if not (self._folder / job.id / "cancelled").exists():
            return  # the process ends; the job is continued later
        with guard(self._home):
            for part in (self._folder / job.id).glob("result.*"):
                part.unlink(missing_ok=True)
        job.state = "cancelled"
        self._note(job)


def add_routes(router: APIRouter, jobs: Jobs) -> None:
    """Add the routes of jobs to a router that checks who may start them."""

    @router.post("/v1/batch", operation_id="batch", status_code=202)
    def start(asked: Batch) -> Job:
        """Start a batch job: an explained list for every user, or for those that are named."""
        return jobs.add(asked)

    @router.get("/v1/batch/{id}", operation_id="batch_state")
    def state(id: str) -> Job:
        """How a batch job stands."""
        return jobs.get(id)

    @router.get(
        "/v1/batch/{id}/result", operation_id="batch_result", response_class=FileResponse,
        responses={
            200: {"content": {media: {"schema": {"type": "string"}} for media in MEDIA.values()}},
            409: {"description": "It has made none (yet)."},
        },
    )  # fmt: skip
    def result(id: str) -> FileResponse:
        """The file of a batch job that is done."""
        path = jobs.result(id)
        return FileResponse(path, media_type=MEDIA[path.suffix[1:]], filename=f"{id}{path.suffix}")

    @router.delete("/v1/batch/{id}", operation_id="batch_cancel")
    def cancel(id: str) -> Job:
        """Stop a batch job that has not ended; remove one that has, with its file."""
        return jobs.cancel(id)
