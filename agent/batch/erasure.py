"""Takes an erased user out of the batch jobs of a home: who was asked for, how they stand, and what they made.

A job is a folder, jobs/ID/: asked.json and state.json (see `ui.http.jobs`), and the files of its batch (see
`agent.batch.output`). Files that a batch wrote elsewhere are their owner's to edit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whyfeed.agent.batch.workers import Wanted
from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.files import beside, write_whole

JOBS = "jobs"
ERASED = "(erased)"  # in place of an id in the report of a job
_PATIENCE = 120.0  # seconds to wait while a large result is put in place


def guard(home: Path) -> FileLock:
    """The lock of the jobs of a home: held by whoever writes in a job's folder, and while a user is taken out."""
    (home / JOBS).mkdir(parents=True, exist_ok=True)
    return FileLock(home / JOBS / ".guard", timeout=_PATIENCE)


def forget(home: Path, user: str) -> bool:
    """Take a user, who is no longer in the store, out of every job; whether they were in any.

    A job that runs goes on: under the same lock it sees that the user is gone. HomeError when a file cannot be
    written, or is being written for minutes.
    """
    if not (home / JOBS).is_dir():
        return False
    try:
        with guard(home):
            return sum(_forget_in(folder, user) for folder in (home / JOBS).iterdir() if folder.is_dir()) > 0
    except Timeout as exc:
        raise HomeError(f"a batch job of {str(home)!r} is being put in place; erase {user!r} once more") from exc
    except OSError as exc:
        raise HomeError(f"cannot take {user!r} out of the batch jobs: {exc.strerror or exc}; erase it again") from exc


def row_start(user: str) -> bytes:
    """The first bytes of the row of this user in a batch's file of JSON Lines."""
    return json.dumps({"user": user}, ensure_ascii=False)[:-1].encode(errors="replace") + b", "


def _forget_in(folder: Path, user: str) -> bool:
    asked = folder / "asked.json"
    changed = _edit(asked, lambda document: _without(document, "users", user))
    changed |= _edit(folder / "state.json", lambda document: _unskipped(document.get("report"), user))
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # a process was killed while it wrote it: whoever writes holds the lock
            path.unlink(missing_ok=True)
        elif path.name.endswith(".part.json"):
            changed |= _edit(path, lambda document: _unbegun(document, json.loads(asked.read_bytes())["users"], user))
        elif path.suffix == ".parquet":
            changed |= _forget_in_parquet(path, user)
        elif path.suffix in (".jsonl", ".part"):
            changed |= _forget_in_rows(path, user)
    return changed


def _edit(path: Path, change: Callable[[dict[str, Any]], bool]) -> bool:
    """Change a JSON document in place; `change` says whether it has changed it."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    changed = change(document)
    if changed:
        write_whole(path, json.dumps(document).encode())
    return changed


def _without(lists: dict[str, Any], key: str, user: str) -> bool:
    """Leave the user out of the list under that key."""
    if user not in (lists.get(key) or ()):
        return False
    lists[key] = [id for id in lists[key] if id != user]
    return True


def _unskipped(report: dict[str, Any] | None, user: str) -> bool:
    """Leave the user out of those who were skipped, by cause."""
    skipped = (report or {}).get("skipped") or {}
    return sum(_without(skipped, cause, user) for cause in skipped) > 0


def _unbegun(begun: dict[str, Any], users: list[str] | None, user: str) -> bool:
    """Leave the user out of a run that is to be continued; `users` are those who are asked for now, None for all."""
    changed = _without(begun, "users", user) | _unskipped(begun, user)
    if users is not None and changed:
        begun["wanted"]["users"] = Wanted(tuple(users)).to_json()["users"]
    return changed


def _forget_in_rows(path: Path, user: str) -> bool:
    start, new, left_out = row_start(user), beside(path, "new"), False
    with path.open("rb") as rows, new.open("wb") as kept:
        for row in rows:
            if row.startswith(start):
                left_out = True
            else:
                kept.write(row)
        kept.flush()
        os.fsync(kept.fileno())
    new.replace(path) if left_out else new.unlink()
    return left_out


def _forget_in_parquet(path: Path, user: str) -> bool:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    new, left_out = beside(path, "new"), False
    with pq.ParquetFile(path) as rows, pq.ParquetWriter(new, rows.schema_arrow, compression="zstd") as writer:
        for batch in rows.iter_batches(1000):
            kept = batch.filter(pc.not_equal(batch["user"], user))
            left_out |= kept.num_rows < batch.num_rows
            writer.write_batch(kept)
    new.replace(path) if left_out else new.unlink()
    return left_out
