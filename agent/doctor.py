"""Health checks of a home and its machine: each finding is a line that says what to do.

The checks read everything and believe nothing: SQLite's own integrity checks, hashes of weights and models, and a model
or index counts as well only once it has been opened and has answered.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whyfeed.agent.agent import Agent
from whyfeed.agent.desk.ranker import ReplyRanker
from whyfeed.agent.llm.weights import WEIGHTS, verify
from whyfeed.agent.recommend.ranker import Ranker
from whyfeed.agent.registry import Registry
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.community.index import PostIndex
from whyfeed.retrieval.errors import WeightsError, WhyfeedError, one_line
from whyfeed.retrieval.privacy.vault import Vault
from whyfeed.retrieval.store.faults import MEND, clear_damage, note_damage

DATABASE = "whyfeed.db"
_ARRAYS = ("neighbours.npz", "tags.npz", "intents.npz")
_INDEXES = ("index.faiss", "cases.faiss")
_REBUILT = "it is built anew at the next start; look at the disk if this happens again"
# Columns of the database that hold JSON.
_JSON = {
    "posts": ("tags", "attributes"), "users": ("attributes",), "turns": ("answer",), "traces": ("document",),
    "kept": ("document",), "desk_turns": ("document",), "desk_conversations": ("attributes",),
    "desk_replies": ("attributes",), "keys": ("scopes", "users"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Check the home, the models, the disk and the memory. Never raises for what it finds.

    A database in which damage is found is marked, so that nothing more is written to it; the mark of one that is whole
    again is removed.
    """
    home = settings.home.expanduser()
    checks = [*_databases(home), *_caches(home), *_weights(settings), *_models(home)]
    checks.insert(0, _home(settings))  # after the others, because opening a home builds caches anew
    there = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    enough = "" if free > 200_000_000 else ": free some space"
    checks.append(Check("disk", not enough, f"{free / 1e9:.1f} GB free{enough}"))
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    checks.append(Check("memory", available > 500_000_000, f"{available / 1e9:.1f} GB free; the writer needs 2"))
    return checks


def _home(settings: Settings) -> Check:
    """Open the home, and ask it as a user and as an operator would."""
    home = settings.home.expanduser()
    try:
        with Agent(settings) as agent:
            status = agent.status()
            detail = f"{status['posts']} posts, {status['users']} readers in {agent.home}"
            if not status["posts"]:
                return Check("home", False, f"{detail}: run whyfeed demo")
            post = next(agent.store.all_posts())
            agent.search(post.title or post.text or post.id, 1)
            asked = {"turns": [{"role": "customer", "text": "Where is my order?"}]}
            for _ in agent.desk.suggest(asked, write=False, remember=False):
                pass
            return Check("home", True, detail)
    except (WhyfeedError, sqlite3.Error, OSError, ValueError) as exc:
        return Check("home", False, f"{home} cannot be opened or does not answer: {one_line(exc)}")


# ---- databases


def _databases(home: Path) -> Iterator[Check]:
    for path in sorted(home.glob("*.db")):
        found = list(_damage(path))
        if found:
            note_damage(path, found[0])
        elif path.name == DATABASE:
            clear_damage(path)
            found += _contents(path)
        for each in found:
            yield Check(path.name, False, f"{each}: {MEND}")
        if not found:
            yield Check(path.name, True, "whole")


def _damage(path: Path) -> Iterator[str]:
    """What SQLite finds wrong with a database file."""
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            for (said,) in db.execute("PRAGMA integrity_check(3)").fetchall():
                if said != "ok":
                    yield f"damaged: {one_line(Exception(said))}"
            wrong = db.execute("PRAGMA foreign_key_check").fetchall()
            if wrong:
                yield f"{len(wrong)} rows of {wrong[0][0]} refer to rows that are gone"
            for (table,) in _full_text(db):
                try:
                    db.execute(f'INSERT INTO "{table}" ("{table}", rank) VALUES (\'integrity-check\', 0)')
                except sqlite3.DatabaseError as exc:
                    yield f"the full-text index {table} is damaged ({one_line(exc)})"
    except sqlite3.Error as exc:
        yield f"damaged: {one_line(exc)}"


def _full_text(db: sqlite3.Connection) -> list[tuple[str]]:
    return db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%fts5%'"
    ).fetchall()


def _contents(path: Path) -> Iterator[str]:
    """What is wrong with the rows of a database that SQLite finds whole."""
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master").fetchall()}
            for table in tables & set(_JSON):
                for column in _JSON[table]:
                    (wrong,) = db.execute(
                        f"SELECT count(*) FROM {table} WHERE {column} IS NOT NULL AND NOT json_valid({column})"
                    ).fetchone()
                    if wrong:
                        yield f"{wrong} rows of {table} have a {column} that cannot be read"
            if {"posts", "search"} <= tables:
                (lost,) = db.execute(
                    "SELECT count(*) FROM posts WHERE num NOT IN (SELECT rowid FROM search)"
                ).fetchone()
                if lost:
                    yield f"{lost} posts are not in the full-text index"
            if "desk_vault" in tables:
                yield from _vaults(db)
    except sqlite3.Error as exc:
        yield f"cannot be read: {one_line(exc)}"


def _vaults(db: sqlite3.Connection) -> Iterator[str]:
    values: dict[int, dict[str, str]] = {}
    for conversation, chip, value in db.execute("SELECT conversation, chip, value FROM desk_vault").fetchall():
        values.setdefault(conversation, {})[chip] = value
    closed = 0
    for known in values.values():
        try:
            Vault(known)
        except (ValueError, TypeError):
            closed += 1
    if closed:
        yield f"the vault of {closed} conversations does not open"


# ---- what is computed from them


def _caches(home: Path) -> Iterator[Check]:
    for name in _INDEXES:
        if (path := home / name).exists():
            whole = _answers(path)
            yield Check(name, whole, "answers" if whole else f"damaged: {_REBUILT}")
    for name in _ARRAYS:
        if (path := home / name).exists():
            whole = _opens(path)
            yield Check(name, whole, "opens" if whole else f"damaged: {_REBUILT}")


def _answers(path: Path) -> bool:
    """Whether an index fits its manifest, opens and answers."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        dimension = int(manifest["dimension"])
        index = PostIndex.load(path, dimension, manifest["model"], manifest["factory"])
        if index is None:
            return False
        (found,) = index.search(np.full((1, dimension), dimension**-0.5, dtype=np.float32), 1)
        return bool(found) or not len(index)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, WhyfeedError):
        return False


def _opens(path: Path) -> bool:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return all(arrays[name] is not None for name in arrays.files)
    except Exception:  # numpy, zipfile and zlib raise errors of many classes for damaged files
        return False


# ---- models


def _weights(settings: Settings) -> Iterator[Check]:
    needed = {settings.embedder}
    if not settings.no_llm:
        # With a server these serve while it is away, so their absence is no fault.
        needed |= {settings.encoder} if settings.llm_url else {settings.encoder, settings.writer, settings.ranker}
    for weights in WEIGHTS:
        wanted = bool({weights.name, weights.role} & needed)
        if weights.state() == "missing":
            detail = "missing: whyfeed models pull" if wanted else "not here, and not needed with these settings"
            yield Check(weights.name, not wanted, f"{detail} {weights.name}" if wanted else detail)
            continue
        try:
            verify(weights)
        except WeightsError as exc:
            yield Check(weights.name, False, f"damaged: {one_line(exc)}")
        else:
            yield Check(weights.name, True, "ready")


def _models(home: Path) -> Iterator[Check]:
    registry = Registry(home)
    for name in registry.names():
        versions = registry.versions(name)
        live = next((each for each in versions if each.live), None)
        trouble = registry.trouble(name)
        if not trouble and live is not None and not _serves(name, home):
            trouble = f"version {live.version} does not open: `whyfeed models rollback {name}`, or train again"
        said = "what is built in" if live is None else f"version {live.version}"
        yield Check(f"trained {name}", not trouble, trouble or f"{said} is live, of {len(versions)} trained")
        for each in versions:
            if each.trouble and not each.live:
                detail = f"version {each.version}, which is not live, is damaged ({each.trouble}): train again"
                yield Check(f"trained {name}", False, detail)


def _serves(name: str, home: Path) -> bool:
    """Whether the live version is what serves, for the models that are read in this process."""
    if name == "ranker":
        return not Ranker.load(home).origin.startswith("hand-set (")
    if name == "replies":
        return not ReplyRanker.load(home).origin.startswith("set by hand (")
    return True  # their files are those that were trained, by their SHA-256
