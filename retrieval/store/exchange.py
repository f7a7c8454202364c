"""Import and export in the exchange format: a folder of JSON Lines files, plain or gzipped.

A bad row does not stop an import: it is counted and written to a rejects file with its file, line and cause. All other
rows are imported in one transaction, so an import happens completely or not at all.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from whyfeed.retrieval.desk.store import DeskStore
from whyfeed.retrieval.desk.types import DeskConversation, SavedReply
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.event import STEERING, Event
from whyfeed.retrieval.files import write_whole
from whyfeed.retrieval.lines import LONGEST_LINE, UnreadableFile, parse_json, read_lines
from whyfeed.retrieval.post import Post, clean_text, row_id
from whyfeed.retrieval.printable import json_line
from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.user import User, user_id

FILES = ("posts", "users", "interactions", "follows", "links", "conversations", "replies")
Row = dict[str, Any]
T = TypeVar("T")
_LONGEST_REJECT = 10_000  # characters of a bad row that are copied to the rejects file
MOST_REJECTS = 1_000  # rows of one file that are listed there; the rest is only counted
LARGEST_REJECTS = 10_000_000  # characters of a rejects file


@dataclass(slots=True)
class FileCount:
    """Rows of one file."""

    read: int = 0
    kept: int = 0
    rejected: int = 0


@dataclass(slots=True)
class ImportReport:
    """Counts of an import by file; `rejects` is the file that lists the rejected rows, None when there are none."""

    counts: dict[str, FileCount] = field(default_factory=lambda: {name: FileCount() for name in FILES})
    rejects: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `import --json`."""
        document: dict[str, Any] = {
            name: {"read": count.read, "kept": count.kept, "rejected": count.rejected}
            for name, count in self.counts.items()
        }
        document["rejects"] = None if self.rejects is None else str(self.rejects)
        return document


def find_file(folder: Path, name: str) -> Path | None:
    """The file `name`.jsonl or `name`.jsonl.gz of an exchange folder; None when there is neither."""
    for candidate in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"):
        if candidate.is_file():
            return candidate
    return None


def read_rows(path: Path) -> Iterator[tuple[int, Row | None, str]]:
    """Yield (line number, row, "") or (line number, None, cause) for every line that is not empty.

    DataError when the file cannot be read or unpacks to too much, see `retrieval.lines`.
    """
    try:
        for number, line in enumerate(read_lines(path), 1):
            if line is None:
                yield number, None, f"longer than {LONGEST_LINE:,} bytes"
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as exc:
                yield number, None, f"not JSON in UTF-8: {exc}"
                continue
            if isinstance(row, dict):
                yield number, row, ""
            else:
                yield number, None, "not a JSON object"
    except UnreadableFile as exc:
        yield exc.line, None, exc.cause


def import_folder(store: Store, folder: Path, progress: Callable[[str, int], None] | None = None) -> ImportReport:
    """Import an exchange folder; importing the same folder again changes nothing.

    `progress` is called with a file's name and the number of rows read so far. DataError when the folder has none of
    the format's files, HomeError when the disk is full; in both cases nothing is imported.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder; give one with posts.jsonl in it")
    found = {name: path for name in FILES if (path := find_file(folder, name))}
    if not found:
        raise DataError(f"{str(folder)!r} has none of {', '.join(f'{name}.jsonl' for name in FILES)}, plain or .gz")

    report = ImportReport()
    rejects = _Rejects(store.home / "rejects", folder.resolve().name)

    def rows(name: str, build: Callable[[Row], T]) -> Iterator[T]:
        count = report.counts[name]
        if name not in found:
            return
        for line, row, cause in read_rows(found[name]):
            count.read += 1
            if progress and count.read % 1000 == 0:
                progress(name, count.read)
            if row is not None:
                try:
                    built = build(row)
                except (ValueError, TypeError, OverflowError) as exc:
                    cause = str(exc)
                else:
                    count.kept += 1
                    yield built
                    continue
            count.rejected += 1
            rejects.add(found[name].name, line, cause, row)
        if progress:
            progress(name, count.read)

    try:
        with store.database.write():
            store.put_posts(rows("posts", Post.from_row))
            store.put_users(rows("users", User.from_row))
            known = {row[1] for row in store.post_rows()}
            store.put_events(rows("interactions", _event_builder(known)))
            store.put_follows(rows("follows", _follow))
            store.put_links(rows("links", _link))
            desk = DeskStore(store)
            desk.put_replies(rows("replies", SavedReply.from_row))
            texts = {reply.id: reply.text for reply in desk.replies()}
            desk.put_conversations(rows("conversations", _conversation_builder(texts)))
        report.rejects = rejects.finish()
    except OSError as exc:
        raise HomeError(f"import of {str(folder)!r} stopped, nothing was kept: {exc.strerror or exc}") from exc
    finally:
        rejects.discard()
    return report


def export_user(store: Store, user: str, out: Path) -> Path:
    """Write everything that is known about a user to a new folder, in the exchange format; returns the folder.

    It contains the user, their events and edges, the posts of these events, their chat turns (turns.jsonl), and their
    conversations with the service desk (conversations.jsonl, masked). UnknownUser; DataError when `out` exists and is
    not an empty folder; HomeError when the disk fails.
    """
    person = store.user(user)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{str(out)!r} exists already; name a new folder")
    events = [event for _, event in store.events(user=user)]
    posts = store.posts(list({event.post for event in events if event.post}))
    conversations, desk = Conversations(store), DeskStore(store)
    files: dict[str, Iterable[Row]] = {
        "users": [person.to_row()],
        "posts": [post.to_row() for post in posts.values()],
        "interactions": [{"id": event.id, **event.to_row()} for event in events],
        "follows": [
            {"from": follower, "to": followed, "weight": weight}
            for follower, followed, weight in store.follows()
            if user in (follower, followed)
        ],
        "turns": [
            {"conversation": id, "role": turn.role, "text": turn.text, "time": turn.time}
            for id, _, _ in conversations.of(user, 10_000)
            for turn in conversations.turns(id, 100_000)
        ],
        "conversations": [desk.conversation(id).to_row() for id in desk.of_customer(user)],
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            for name, rows in files.items():
                with (beside / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if out.exists():
                out.rmdir()
            beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as exc:
        raise HomeError(f"cannot write {str(out)!r}: {exc.strerror or exc}") from exc
    return out


def forget_rejected(home: Path, *ids: str) -> bool:
    """Delete the rows that name one of these ids from the rejects files of a home; whether there were any.

    A row names an id where one of its values is that id, or where its cause or a shortened row quotes it. HomeError
    when a file cannot be written.
    """
    wanted, found = set(ids), False
    try:
        for path in sorted((home / "rejects").glob("[!.]*.jsonl")):  # a hidden one is still being written
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _names(line, wanted)]
            found |= len(kept) < len(lines)
            if not kept:
                path.unlink(missing_ok=True)
            elif len(kept) < len(lines):
                write_whole(path, b"".join(kept))
    except OSError as exc:
        raise HomeError(f"cannot edit the rejects files of {str(home)!r}: {exc.strerror or exc}") from exc
    return found


def _names(line: bytes, ids: set[str]) -> bool:
    try:
        rejected = json.loads(line)
    except ValueError:
        return any(id.encode() in line for id in ids)
    row = rejected.get("row")
    told = f"{rejected.get('cause')} {row if isinstance(row, str) else ''}"
    quoted = [form for id in ids for form in (repr(id), json.dumps(id, ensure_ascii=False))]
    return _holds(row, ids) or any(form in told for form in quoted)


def _holds(value: Any, ids: set[str]) -> bool:
    if isinstance(value, dict):
        return any(_holds(inner, ids) for inner in value.values())
    if isinstance(value, list):
        return any(_holds(inner, ids) for inner in value)
    return clean_text(value) in ids


class _Rejects:
    """Writes the rejects file, which gets its final name only when it is complete and not empty.

    It lists at most `MOST_REJECTS` rows of a file and stays below `LARGEST_REJECTS`; its last lines count the rest.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._file: Any = None
        self._beside = folder / f".{name}-{os.getpid()}-{threading.get_ident()}.jsonl"
        self._listed: Counter[str] = Counter()
        self._unlisted: Counter[str] = Counter()
        self._room = LARGEST_REJECTS

    def add(self, file: str, line: int, cause: str, row: Row | None) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = self._beside.open("w", encoding="utf-8")
        if self._listed[file] >= MOST_REJECTS or self._room <= 0:
            self._unlisted[file] += 1
            return
        repeated: Row | str | None = row
        if row is not None and len(text := json.dumps(row, ensure_ascii=False)) > _LONGEST_REJECT:
            repeated = text[:_LONGEST_REJECT] + "…"
        written = json_line({"file": file, "line": line, "cause": cause[:1000], "row": repeated}) + "\n"
        self._listed[file] += 1
        self._room -= len(written)
        self._file.write(written)

    def finish(self) -> Path | None:
        if self._file is None:
            return None
        for file, count in self._unlisted.items():
            cause = f"{count} more rows were left out, and are not listed"
            self._file.write(json_line({"file": file, "line": None, "cause": cause, "row": None}) + "\n")
        self._file.close()
        for number in range(1, 10_000):
            target = self._folder / f"{self._name}-{number}.jsonl"
            with contextlib.suppress(FileExistsError):
                os.link(self._beside, target)  # unlike rename, refuses to replace another import's file
                return target
        raise HomeError(f"{str(self._folder)!r} is full of rejects files; delete old ones")

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._beside.unlink(missing_ok=True)


def _event_builder(known_posts: set[str]) -> Callable[[Row], Event]:
    """Returns a function from rows to events, whose ids are digests of their content: a second import skips them."""
    seen: Counter[str] = Counter()
    ids: dict[str, str] = {}  # id in the file -> id in the store, of steering events

    def build(row: Row) -> Event:
        event = Event.from_row(row)
        if event.kind in ("rule-on", "rule-off"):  # their text is the id of the rule
            event = replace(event, text=ids.get(event.text, event.text))
        if event.kind not in STEERING and event.post not in known_posts:
            raise ValueError(f"unknown post {event.post!r}")
        content = json.dumps(event.to_row(), sort_keys=True)
        seen[content] += 1
        digest = hashlib.sha256(f"{content}#{seen[content]}".encode()).hexdigest()[:16]
        event = replace(event, id=f"i{digest}")
        if event.kind in STEERING and isinstance(row.get("id"), str):
            ids[row["id"]] = event.id
        return event

    return build


def _conversation_builder(replies: Mapping[str, str]) -> Callable[[Row], DeskConversation]:
    """Returns a function from rows to conversations; `replies` maps ids of saved replies to their texts.

    The text of a turn that only names a saved reply is filled in. A second row with the same id is rejected, because
    the two would replace each other at every import.
    """
    seen: set[str] = set()

    def build(row: Row) -> DeskConversation:
        conversation = DeskConversation.from_row(row)
        if any(turn.reply and not turn.text for turn in conversation.turns):
            turns = [
                turn if turn.text else replace(turn, text=replies.get(turn.reply, "")) for turn in conversation.turns
            ]
            conversation = replace(conversation, turns=tuple(turns))
        if conversation.id in seen:
            raise ValueError(f"conversation {conversation.id!r} is in this file already")
        seen.add(conversation.id)
        return conversation

    return build


def _follow(row: Row) -> tuple[str, str, float]:
    weight = row.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e12:
        raise ValueError(f"weight {weight!r} is not a positive number")
    return user_id(row, "from"), user_id(row, "to"), float(weight)


def _link(row: Row) -> tuple[str, str, str]:
    return row_id(row, "head"), row_id(row, "relation"), row_id(row, "tail")
