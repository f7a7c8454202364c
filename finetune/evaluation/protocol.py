"""Tests of rankers: the rows of a test, and the events that may be learnt from.

A row of a ranking test is a user, the relevant posts and optionally the candidates; a row of a click test is a user, a
post and whether it was liked. The rows are read from a file or held out from the folder itself. Either way the events
that are asked about are removed from ALL statistics.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.finetune.evaluation.histories import Flags, Histories, Times
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.clock import parse_time
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import row_id
from whyfeed.retrieval.store.exchange import find_file, read_rows

Keys = npt.NDArray[np.uint64]
CLICKS = ("like", "dislike")
LATER = 0.2  # share of the events, the last by time, that a click test is cut from
MOST_USERS = 6000  # of a test that is cut here; a file's rows are all asked
FRESH = 0.1  # share of the posts that nobody has seen, where such are asked about


@dataclass(frozen=True, eq=False)
class RankingTest:
    """Row t asks for `relevant[t]` of user `user[t]` among `candidates[t]`, or among all they have not seen."""

    user: Rows
    relevant: Sequence[Rows]
    candidates: Sequence[Rows] | None
    protocol: str
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class ClickTest:
    """Row t asks whether user `user[t]` likes post `post[t]`; `label[t]` is 1 or 0."""

    user: Rows
    post: Rows
    label: Rows
    protocol: str
    skipped: int = 0


Test = RankingTest | ClickTest


def about_posts(folder: Path, test: Path | None) -> bool:
    """Whether the test rows, or without them the folder, are about posts (else they are about replies)."""
    if test is not None and test.is_file():
        for _, row, _ in read_rows(test):
            # The first row that has either; broken ones before it say nothing.
            if row is not None and ("conversation" in row or "user" in row):
                return "conversation" not in row
    return not any(find_file(folder, name) for name in ("conversations", "replies")) and bool(
        find_file(folder, "interactions")
    )


def prepare(
    histories: Histories, folder: Path, test: Path | None = None, candidates: int | None = None, seed: int = 0,
    most: int = MOST_USERS, unseen: bool = False,
) -> tuple[Histories, Test]:  # fmt: skip
    """The test, and the histories that may be learnt from. DataError when there is nothing to ask.

    `candidates` draws so many uniform negatives outside the user's whole history for each row that names none.
    `unseen` asks about posts that nobody has seen (`unseen_posts`). ValueError when these do not go together.
    """
    file = test
    if unseen:
        if file is not None:
            raise ValueError("--unseen cuts its own test, and --test names one; leave one of them out")
        if is_click(histories):
            raise ValueError("--unseen is for rankings, and this folder is of likes and dislikes; leave it out")
    elif file is None and is_click(histories):
        file = find_file(folder, "valid")
    if file is not None:
        train, found = _from_file(histories, file)
    elif is_click(histories):
        train, found = later_clicks(histories, seed)
    else:
        train, found = (unseen_posts if unseen else leave_one_out)(histories, seed, most)
    if not len(found.user):
        raise DataError(f"{str(test or folder)!r} has nothing to test on; see README, Measure")
    if candidates is None:
        return train, found
    if isinstance(found, ClickTest):
        raise ValueError("--candidates is for rankings, and this test asks for likes; leave it out")
    if found.candidates is None or unseen:
        # Drawn outside the whole history, so that no negative is something that the user had.
        whole = replace(histories.with_ids(train.users, train.posts), fresh=train.fresh)
        found = with_negatives(whole, found, candidates, seed)
    return train, found


def is_click(histories: Histories) -> bool:
    """Whether most events of a folder are likes and dislikes, and both are there."""
    kinds = histories.kinds or {}
    said = [kinds.get(kind, 0) for kind in CLICKS]
    return min(said) > 0 and 2 * sum(said) >= sum(kinds.values())


# ---- cut from the folder ----


def leave_one_out(histories: Histories, seed: int = 0, most: int = MOST_USERS) -> tuple[Histories, RankingTest]:
    """Leave one out: hold out the last liked post of every user with two or more; up to `most` users are asked for it.

    Without times it is one at random, by the seed and the user's id. A user's events after the target are removed too.
    Later events of other users stay, as in published leave-one-out tests.
    """
    last = _lasts(histories, histories.first_likes, seed)
    last = last[histories.lengths[histories.user[last]] >= 2]
    target, until = _targets(histories, last)
    kept = (histories.post != target[histories.user]) & ~(histories.time > until[histories.user])
    asked = histories.user[last]
    chosen = _some(histories, asked, seed, most)
    how = "last liked post by time" if histories.ordered else "one liked post at random"
    protocol = (
        f"leave one out: the {how} of each of {len(asked)} users is out of all statistics, {len(chosen)} users "
        f"are asked for it among the whole catalogue minus their history (seed {seed})"
    )
    return histories.keep(kept), RankingTest(chosen, list(target[chosen][:, None]), None, protocol)


def unseen_posts(histories: Histories, seed: int = 0, most: int = MOST_USERS) -> tuple[Histories, RankingTest]:
    """Hold out a tenth of the posts, by their ids, from all histories; users who liked one of them are asked for it.

    A user's target is their last liked one of these posts by time (one at random without times); the candidates are
    all of these posts that the user did not have otherwise. What a user did after it is out too, as in `leave_one_out`.
    Posts that were fresh before stay so: a test can be cut within another one's histories.
    """
    drawn = _digests(histories.posts, f"fresh post {seed}") < np.uint64(FRESH * 2.0**64)
    fresh = drawn if histories.fresh is None else drawn | histories.fresh
    last = _lasts(histories, histories.first_likes[drawn[histories.post[histories.first_likes]]], seed)
    target, until = _targets(histories, last)
    known = ~fresh[histories.post]
    asked = histories.user[last]
    before = histories.keep(known & ~(histories.time > until[histories.user])).lengths
    chosen = _some(histories, asked[before[asked] >= 1], seed, most)
    until[np.setdiff1d(np.arange(len(until)), chosen)] = np.inf  # nobody asks for the future of the others
    train = replace(histories.keep(known & ~(histories.time > until[histories.user])), fresh=fresh)
    pool = train.asked
    candidates = []
    for user in chosen:
        had = histories.seen.indices[slice(*histories.seen.indptr[user : user + 2])]
        candidates.append(np.union1d(np.setdiff1d(pool, had, assume_unique=True), target[user]))
    protocol = (
        f"unseen posts: {len(pool)} posts, {FRESH:.0%} of them, are out of all statistics, and {len(chosen)} users who "
        f"liked one are asked for it among them (seed {seed})"
    )
    return train, RankingTest(chosen, list(target[chosen][:, None]), candidates, protocol)


def _lasts(histories: Histories, places: Rows, seed: int) -> Rows:
    """Of these places the last of each user, without times one at random by the seed and the user's id."""
    users = histories.user[places]
    keys = pair_keys(histories, "target", seed)(users, histories.post[places])
    times = np.nan_to_num(histories.time[places], nan=-np.inf) if histories.ordered else np.zeros(len(places))
    order = np.lexsort((keys, times, users))
    ends = np.append(users[order][1:] != users[order][:-1], True) if len(order) else order
    return np.asarray(places[order[ends]])


def _targets(histories: Histories, last: Rows) -> tuple[Rows, Times]:
    """(users,) the post at each user's place, -1 without one, and when that was, inf where nothing is later."""
    target = np.full(len(histories.users), -1, dtype=np.int64)
    target[histories.user[last]] = histories.post[last]
    until = np.full(len(histories.users), np.inf)
    if histories.ordered:
        until[histories.user[last]] = np.nan_to_num(histories.time[last], nan=-np.inf)
    return target, until


def _some(histories: Histories, users: Rows, seed: int, most: int) -> Rows:
    """At most so many of the users, drawn by their ids."""
    return np.sort(users[np.argsort(user_keys(histories, "asked", seed)[users], kind="stable")[:most]])


def with_negatives(histories: Histories, test: RankingTest, count: int, seed: int = 0) -> RankingTest:
    """The same rows, each among its relevant posts and `count` uniform others outside the user's whole history."""
    if count < 1:
        raise ValueError(f"candidates is {count}; it must be 1 or more")
    seen, ids = histories.seen, user_keys(histories, "negatives", seed)
    drawn: list[Rows] = []
    for user, relevant in zip(test.user, test.relevant, strict=True):
        own = np.union1d(seen.indices[seen.indptr[user] : seen.indptr[user + 1]], relevant)
        rng = np.random.default_rng(int(ids[user]))
        others = np.setdiff1d(histories.asked, own, assume_unique=True)
        negatives = rng.choice(others, min(count, len(others)), replace=False)
        drawn.append(np.union1d(negatives, relevant))
    protocol = re.sub(
        "among (them|the whole catalogue minus their history)",
        f"among {count} uniform negatives outside their whole history", test.protocol,
    )  # fmt: skip
    return RankingTest(test.user, test.relevant, drawn, protocol, test.skipped)


def later_clicks(histories: Histories, seed: int = 0, share: float = LATER) -> tuple[Histories, ClickTest]:
    """Ask about the last `share` of the labels: by the clock, else each user's last, else at random."""
    places = _last_labels(histories)
    labelled = np.zeros(len(histories.user), dtype=bool)
    labelled[places] = True
    if histories.clock:
        cut = np.quantile(histories.time[places], 1 - share)
        later = histories.time > cut
        how = f"the last {share:.0%} of the labels by time"
    else:
        keys = pair_keys(histories, "target", seed)(histories.user, histories.post)
        rank = np.nan_to_num(histories.time, nan=-np.inf) if histories.ordered else keys
        order = np.lexsort((keys, rank, histories.user))
        sizes = np.diff(histories.starts)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - histories.starts[:-1][histories.user[order]]
        later = place >= np.ceil((1 - share) * sizes)[histories.user]
        how = f"the last {share:.0%} of each user's labels" if histories.ordered else f"{share:.0%} of each user's"
    asked = np.flatnonzero(labelled & later)
    user, post = histories.user[asked], histories.post[asked]
    kept = ~later & ~_among(histories, user, post)
    label = (histories.weight[asked] > 0).astype(np.int64)
    protocol = f"clicks: {how} ({len(asked)} rows), statistics frozen before them (seed {seed})"
    return histories.keep(kept), ClickTest(user, post, label, protocol)


def _last_labels(histories: Histories) -> Rows:
    """What a user said last about a post counts."""
    places = np.flatnonzero(histories.weight != 0)[::-1]
    _, first = np.unique(histories.user[places] * len(histories.posts) + histories.post[places], return_index=True)
    return np.sort(places[first])


# ---- read from a file ----


def _from_file(histories: Histories, path: Path) -> tuple[Histories, Test]:
    if not path.is_file():
        raise DataError(f"{str(path)!r} is no file; name a file of test rows")
    read: list[tuple[str, Mapping[str, Any]]] = []
    skipped = 0
    for _, row, _ in read_rows(path):
        try:
            if row is None:
                raise ValueError("no row")
            read.append(_checked(row))
        except (ValueError, TypeError, OverflowError):
            skipped += 1
    kinds = [kind for kind, _ in read]
    # A file asks one kind of question; rows of the other are none of this test.
    kind = max(("ranking", "click"), key=kinds.count)
    rows = [row for each, row in read if each == kind]
    skipped += len(read) - len(rows)
    if not rows:
        raise DataError(
            f"{str(path)!r} has no test row; a row has user and relevant (and candidates), or user, post and label"
        )
    return (_ranking if kind == "ranking" else _clicks)(histories, path, rows, skipped)


def _checked(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind of a test row and its clean values; ValueError when it is none."""
    user, time = row_id(row, "user"), parse_time(row.get("time"))
    if "relevant" in row:
        relevant, candidates = _ids(row["relevant"]), row.get("candidates")
        if not relevant:
            raise ValueError("relevant is empty")
        listed = None if candidates is None else _ids(candidates)
        return "ranking", {"user": user, "relevant": relevant, "candidates": listed, "time": time}
    label = row.get("label")
    if label is None and "kind" in row:
        weight = Event.from_row(row).weight
        label = None if weight == 0 else int(weight > 0)
    if label not in (0, 1):
        raise ValueError(f"label {label!r} is neither 0 nor 1")
    return "click", {"user": user, "post": row_id(row, "post"), "label": int(label), "time": time}


def _ids(given: Any) -> list[str]:
    if not isinstance(given, list):
        raise ValueError(f"{given!r} is not a list of ids")
    return list(dict.fromkeys(row_id({"id": each}, "id") for each in given))


def _ranking(
    histories: Histories, path: Path, rows: Sequence[Mapping[str, Any]], skipped: int
) -> tuple[Histories, RankingTest]:
    listed = all(row["candidates"] is not None for row in rows)
    if not listed and any(row["candidates"] is not None for row in rows):
        raise DataError(f"{str(path)!r} names candidates in some rows only; name them in all or in none")
    posts = [id for row in rows for id in (*row["relevant"], *(row["candidates"] or ()))]
    histories = histories.with_ids((row["user"] for row in rows), posts)
    place = histories.post_rows
    user = np.array([histories.user_rows[row["user"]] for row in rows], dtype=np.int64)
    relevant = [np.array([place[id] for id in row["relevant"]], dtype=np.int64) for row in rows]
    candidates = None
    if listed:
        candidates = [
            np.union1d([place[id] for id in row["candidates"]], own).astype(np.int64)
            for row, own in zip(rows, relevant, strict=True)
        ]
    lengths = [len(each) for each in relevant]
    leaked = _among(histories, np.repeat(user, lengths), np.concatenate(relevant))
    until = np.full(len(histories.users), np.inf)
    for row, who in zip(rows, user, strict=True):
        if row["time"] is not None:
            until[who] = min(until[who], row["time"])
    leaked |= histories.time >= until[histories.user]
    among = "the candidates that are named" if listed else "the whole catalogue minus their history"
    protocol = f"{len(rows)} rows of {path.name}, {len(np.unique(user))} users, asked among {among}"
    return histories.keep(~leaked), RankingTest(user, relevant, candidates, protocol + _removed(leaked), skipped)


def _clicks(
    histories: Histories, path: Path, rows: Sequence[Mapping[str, Any]], skipped: int
) -> tuple[Histories, ClickTest]:
    histories = histories.with_ids((row["user"] for row in rows), (row["post"] for row in rows))
    user = np.array([histories.user_rows[row["user"]] for row in rows], dtype=np.int64)
    post = np.array([histories.post_rows[row["post"]] for row in rows], dtype=np.int64)
    label = np.array([row["label"] for row in rows], dtype=np.int64)
    time: Times = np.array([np.nan if row["time"] is None else row["time"] for row in rows])
    leaked = _among(histories, user, post)
    note = ""
    if histories.clock and not np.isnan(time).all():
        future = histories.time >= np.nanmin(time)
        # A test that is not cut by time (at random, or per user) has no common moment to freeze statistics at.
        if future.mean() <= 0.5:
            leaked |= future
        else:
            note = "; the rows are not cut by time, so later events of others are known"
    protocol = f"clicks: {len(rows)} rows of {path.name}, {len(np.unique(user))} users, statistics frozen before them"
    return histories.keep(~leaked), ClickTest(user, post, label, protocol + note + _removed(leaked), skipped)


def _removed(leaked: Flags) -> str:
    count = int(leaked.sum())
    return f"; {count} events of the folder that the test asks about or that lie after it were taken out" * (count > 0)


def _among(histories: Histories, user: Rows, post: Rows) -> Flags:
    """Which events are of one of these pairs."""
    size = len(histories.posts)
    return np.isin(histories.user * size + histories.post, user * size + post)


# ---- pseudo-random numbers from ids ----


def user_keys(histories: Histories, purpose: str, seed: int) -> Keys:
    """(users,) a hash of each user's id, the purpose and the seed; independent of row order."""
    return _digests(histories.users, f"{purpose} user {seed}")


def pair_keys(histories: Histories, purpose: str, seed: int) -> Callable[[Rows, Rows], Keys]:
    """A function of user and post rows (aligned or broadcast): a hash of their ids, the purpose and the seed.

    Ties are broken by these hashes, independent of row order. Each purpose has its own hashes: a target drawn as its
    user's largest hash would lose every tie that is broken by the same ones.
    """
    users, posts = user_keys(histories, purpose, seed), _digests(histories.posts, f"{purpose} post {seed}")
    return lambda user, post: _mixed(users[user] ^ posts[post])


def _digests(ids: Sequence[str], salt: str) -> Keys:
    key = salt.encode()
    joined = b"".join(hashlib.blake2b(id.encode("utf-8", "replace"), digest_size=8, key=key).digest() for id in ids)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def _mixed(keys: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(keys ^ (keys >> np.uint64(31)))
