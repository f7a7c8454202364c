"""Which acts count where acts of many accounts are counted, so that a handful of accounts cannot set everybody's list.

Profile injection (shilling) attacks make many accounts that like one post, and popular ones beside it so that the post
co-occurs with them (Lam and Riedl 2004; Mobasher, Burke, Bhaumik and Williams 2007). Accounts are cheap, a past is not:
as in the influence limiter (Resnick and Sami 2007), an account's say starts near nothing and grows with what it has
done. Acts of newcomers count on a post as long as established accounts act on it too, so in an ordinary community
nearly all acts count, and every count over accounts (popularity, co-occurrence, item-kNN, EASE, training histories)
is protected by leaving out the acts that do not.

All functions work on plain arrays, one entry an act: codes of accounts and posts, and times.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Rows

DAY = 86_400.0  # seconds
ESTABLISHED = 10.0  # distinct posts, and distinct days, from which on an account counts fully at the latest
SUPPORT = 3.0  # acts that count on a post for each established account among those who did them
GRACE = 1  # acts that count on a post whoever did them
FIRST_CLOCK = 1e8  # Unix seconds (1973); smaller times are numbers of an order and say nothing of days
HANDFUL = 5  # tags that any post may have


def account_weights(users: Rows, posts: Rows, times: npt.NDArray[np.float64] | None = None) -> Floats:
    """The weight (0..1) of each account's acts, shape (largest user code + 1,); 0 for codes without an act.

    The arguments are one entry an act (n,); `times` are Unix seconds, NaN where unknown, best those that were
    `witnessed`. The weight is min(1, min(3, posts / P) * min(1, days / D))^2 for the numbers of distinct posts and of
    distinct days that the account acted on. P and D are the means over the accounts, each as heavy as its posts times
    its days, and at most `ESTABLISHED`. So weights are relative to the community: where everybody is new, everybody
    counts. A crowd of new accounts lowers these means only when its acts outnumber those of the members several times.
    Many posts make up for few days, up to three times: there are communities of single long sessions. Without times,
    days do not count.
    """
    size = int(users.max()) + 1 if len(users) else 0
    done, days = _distinct(users, posts, size), np.ones(size)
    known = np.zeros(0, dtype=np.bool_) if times is None else ~np.isnan(times)
    if times is not None and known.any() and float(np.median(times[known])) >= FIRST_CLOCK:
        day = np.zeros(len(times), dtype=np.int64)  # acts without a time are of one day together
        day[known] = np.floor(times[known] / DAY).astype(np.int64)
        days = _distinct(users, day, size)
    past = done * days
    share = _relative(done, past).clip(max=3) * _relative(days, past).clip(max=1)
    return np.asarray(share.clip(max=1) ** 2, dtype=np.float32)


def witnessed(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For acts in the order in which they arrived (n,): the latest time that had been seen by then.

    An account that comes with a past, all of it in one import, has been seen for a day. Times far beyond all others are
    cut, so that a date in the future does not stop the clock. NaN where nothing has a time yet. Where the first quarter
    of the acts did not arrive in the order of their times, as from a file that is sorted by user, the order says
    nothing and the times themselves are returned.
    """
    known = ~np.isnan(times)
    if not known.any():
        return times
    latest = np.maximum.accumulate(np.where(known, times, -np.inf).clip(max=latest_time(times[known])))
    first = slice(0, max(1, len(times) // 4))
    if np.count_nonzero(times[first] < latest[first]) > 0.5 * np.count_nonzero(known[first]):
        return times
    return np.where(np.isfinite(latest), latest, np.nan)


def latest_time(times: npt.NDArray[np.float64]) -> float:
    """The largest of these times (n,) that is believed: few that are far beyond all others say nothing of the clock.

    A tenth of the span of the first 98 % of the times, and at least a day, may lie between these and the latest.
    """
    early, late = np.quantile(times, [0.02, 0.98], method="lower")
    return float(min(times.max(), late + max((late - early) / 10, DAY)))


def counted(users: Rows, posts: Rows, weights: Floats) -> npt.NDArray[np.bool_]:
    """Which acts (n,) count; `weights` are `account_weights`.

    On each post so many accounts count: `SUPPORT` times the sum of the weights of all who acted on it, rounded down,
    plus `GRACE`, those with the largest weights first and among equal ones those who acted first.
    """
    width = int(posts.max()) + 1 if len(posts) else 1
    pairs, first, of = np.unique(users.astype(np.int64) * width + posts, return_index=True, return_inverse=True)
    post, weight = pairs % width, weights[pairs // width].astype(np.float64)
    allowed = np.floor(SUPPORT * np.bincount(post, weight, minlength=width) + 1e-6) + GRACE
    order = np.lexsort((first, -weight, post))
    starts = np.searchsorted(post[order], np.arange(width))
    kept = np.empty(len(pairs), dtype=np.bool_)
    kept[order] = np.arange(len(pairs)) - starts[post[order]] < allowed[post[order]]
    return np.asarray(kept[of])


def focus(tags: Rows) -> Floats:
    """How far posts with so many tags (n,) are about each of them (n,): 1 up to the usual number, then usual / number.

    The usual number is what nine in ten of the posts do not exceed, at least `HANDFUL`. Tags beyond it would otherwise
    each add a topic for which the post is found.
    """
    usual = max(float(HANDFUL), float(np.quantile(tags, 0.9))) if len(tags) else float(HANDFUL)
    return np.asarray(np.minimum(1.0, usual / np.maximum(tags, 1)), dtype=np.float32)


def _distinct(users: Rows, others: Rows, size: int) -> npt.NDArray[np.float64]:
    """For each user (size,), how many distinct values of `others` stand beside it."""
    _, codes = np.unique(others, return_inverse=True)
    width = int(codes.max()) + 1 if len(codes) else 1
    pairs = np.unique(users.astype(np.int64) * width + codes)
    return np.bincount(pairs // width, minlength=size).astype(np.float64)


def _relative(counts: npt.NDArray[np.float64], heavy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Counts of accounts relative to their mean, in which accounts are so `heavy`, at most `ESTABLISHED`."""
    total = heavy.sum()
    if not total:
        return np.zeros(len(counts))
    usual = min(ESTABLISHED, float((counts * heavy).sum() / total))
    return counts / usual
