"""How far accounts that belong to one person can push an advertisement up everybody's list, on the demo communities.

    python -m benchmarks.poisoning [--seeds 0,1,2] [--readers 60] [--only WORDS] [--home DIR] [--no-quality]

Each attack writes its posts and acts into a copy of the demo home, by import or as feedback, and 60 ordinary readers
are asked for their list before and after. An attack may move the advertisement into the first five of at most two of
60 readers more than the same advertisement without any likes and with three tags; where one does, the command exits
with 1, except for accounts that were active as long as members are, whose effect is printed. The ranking of ordinary
readers is measured as in `benchmarks.ranking`, on the home without an attack and with the strongest one in its past.
Everything is determined by the seeds. Constants of the defence were chosen on seeds from 100 on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed import Agent
from whyfeed.agent.demo import FOLDER, import_demo
from whyfeed.agent.recommend.ranker import HAND_SET
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.metrics import Resampling, bounds
from whyfeed.finetune.ranking import examples
from whyfeed.finetune.ranking.fit import ndcg
from whyfeed.retrieval.clock import format_time, parse_time
from whyfeed.retrieval.community.signals import CORE

DAY = 86_400.0
MOST_MORE = 2  # readers of 60
LEAST_ACTS = 5  # posts of the community that an ordinary reader has acted on
COMMUNITIES = ("quantumcomputing", "alcohol")  # even seeds advertise in the first one, odd seeds in the second
RANKERS: Mapping[str, Mapping[str, float]] = {
    "hand-set": HAND_SET,
    "popularity": {"popular": 1.0},
    "co-occurrence": {"cooccurrence": 1.0},
    "tags": {"tags": 1.0},
}
ADS = (
    ("Best deals on crypto trading bots, sign up today", "Earn money while you sleep. Join 10,000 happy customers."),
    ("Win big at our online casino, 200% bonus", "Free spins for new players. Click the link and register now."),
    ("Cheap car insurance in two minutes", "Compare 40 insurers and save up to 500 a year. Get your quote now."),
    ("Lose ten kilos in four weeks with this tea", "Doctors hate it. Order two packs and get a third one free."),
    ("Your own web shop for 9.99 a month", "Hosting, payment and design in one package. No contract, try it today."),
    ("Lastminute flights to the sun", "Hotels and flights for half the price, only this weekend. Book now."),
)
Row = dict[str, Any]


@dataclass
class Ground:
    """What an attacker sees of a community: its posts by popularity, its tags, and the time of the newest post."""

    community: str
    popular: list[Row]
    tags: list[str]  # of the community, the most frequent first
    now: float
    rng: np.random.Generator
    ad: Row

    @classmethod
    def of(cls, histories: Histories, rows: Mapping[str, Row], community: str, seed: int) -> Ground:
        """Read it from the demo's folder."""
        order = np.argsort(-histories.popularity, kind="stable")
        inside = [rows[histories.posts[place]] for place in order]
        inside = [row for row in inside if row.get("community") == community]
        counts: dict[str, int] = {}
        for row in inside:
            for tag in row.get("tags", ()):
                counts[tag] = counts.get(tag, 0) + 1
        now = max(time for row in inside if (time := parse_time(row["created_at"])) is not None)
        title, text = ADS[seed % len(ADS)]
        tags = sorted(counts, key=lambda tag: (-counts[tag], tag))
        ad = {
            "id": "ad", "title": title, "text": text, "author": "seller", "community": community, "tags": tags[:3],
            "created_at": format_time(now),
        }  # fmt: skip
        return cls(community, inside, tags, now, np.random.default_rng(seed), ad)


@dataclass
class Attack:
    """Rows to import, acts to send as feedback afterwards, and the ids that count as the advertisement."""

    posts: list[Row]
    interactions: list[Row] = field(default_factory=list)
    sent: list[tuple[str, str]] = field(default_factory=list)  # (user, post)
    targets: frozenset[str] = frozenset({"ad"})


def _like(user: str, post: Row | str, time: float) -> Row:
    return {"user": user, "post": post if isinstance(post, str) else post["id"], "kind": "like",
            "time": format_time(time)}  # fmt: skip


def _alone(ground: Ground, tags: int = 3) -> Attack:
    return Attack([{**ground.ad, "tags": ground.tags[:tags]}])


def _liked(ground: Ground, accounts: int, tags: int = 3) -> Attack:
    """Accounts that like the advertisement and nothing else."""
    likes = [_like(f"fake{number}", "ad", ground.now + number) for number in range(accounts)]
    return Attack(_alone(ground, tags).posts, likes)


def _camouflaged(ground: Ground, accounts: int, others: int, first: float, tags: int = 3, last: float = 0.0) -> Attack:
    """Accounts that like popular posts, from `first` days ago to `last` days ago, and then the advertisement."""
    likes = []
    for number in range(accounts):
        chosen = ground.rng.choice(min(30, len(ground.popular)), others, replace=False)
        times = np.sort(ground.rng.uniform(ground.now - first * DAY, ground.now - last * DAY, others))
        likes += [
            _like(f"fake{number}", ground.popular[place], time) for place, time in zip(chosen, times, strict=True)
        ]
        likes.append(_like(f"fake{number}", "ad", ground.now + number))
    return Attack(_alone(ground, tags).posts, likes)


def _slow(ground: Ground, accounts: int, days: int) -> Attack:
    """Accounts that like a post of any kind every day for so many days, and then the advertisement one by one.

    The home sees these days pass: the likes arrive in the order of their times.
    """
    likes = []
    for number in range(accounts):
        chosen = ground.rng.choice(len(ground.popular), days, replace=False)
        likes += [
            _like(f"fake{number}", ground.popular[place], ground.now + step * DAY + number)
            for step, place in enumerate(chosen)
        ]
        likes.append(_like(f"fake{number}", "ad", ground.now + days * DAY + number))
    likes.sort(key=lambda row: row["time"])
    posts = _alone(ground).posts
    posts[0]["created_at"] = format_time(ground.now + days * DAY)
    return Attack(posts, likes)


def _often(ground: Ground, times: int) -> Attack:
    return Attack(_alone(ground).posts, sent=[("fake0", "ad")] * times)


def _copies(ground: Ground, of: Row, count: int, accounts: int) -> Attack:
    """Near copies of a post by as many authors; the accounts like them in turn."""
    posts = [
        {**of, "id": f"copy{number}", "title": f"{of['title']} ({number})", "author": f"seller{number}",
         "community": ground.community, "created_at": format_time(ground.now - number)}
        for number in range(count)
    ]  # fmt: skip
    likes = [
        _like(f"fake{account}", posts[place], ground.now + account)
        for account in range(accounts)
        for place in range(account % count, count, max(1, count // 5))
    ]
    return Attack(posts, likes, targets=frozenset(post["id"] for post in posts))


def _ahead(ground: Ground, accounts: int) -> Attack:
    """The advertisement and its likes say that they are from a year ahead."""
    attack = _liked(ground, accounts)
    attack.posts[0]["created_at"] = format_time(ground.now + 365 * DAY)
    for row in attack.interactions:
        row["time"] = format_time(ground.now + 365 * DAY)
    return attack


Make = Callable[[Ground], Attack]
# name -> (before, after); the first is what the second is compared with
ATTACKS: Mapping[str, tuple[Make, Make]] = {
    "no likes": (_alone, _alone),
    "no likes, 20 common tags": (_alone, lambda g: _alone(g, 20)),
    "no likes, all tags": (_alone, lambda g: _alone(g, 1000)),
    "50 fresh accounts": (_alone, lambda g: _liked(g, 50)),
    "20 common tags, 20 fresh accounts": (_alone, lambda g: _liked(g, 20, 20)),
    "all tags, 50 fresh accounts": (_alone, lambda g: _liked(g, 50, 1000)),
    "50 accounts that also like 5 popular posts": (_alone, lambda g: _camouflaged(g, 50, 5, 0.1)),
    "the same, all tags": (_alone, lambda g: _camouflaged(g, 50, 5, 0.1, 1000)),
    "100 near copies, 20 accounts": (_alone, lambda g: _copies(g, g.ad, 100, 20)),
    "100 near copies of a popular post, 20 accounts": (
        lambda g: _copies(g, g.popular[0], 1, 0), lambda g: _copies(g, g.popular[0], 100, 20)),
    "one account likes 500 times": (_alone, lambda g: _often(g, 500)),
    "50 accounts with 10 back-dated likes": (_alone, lambda g: _camouflaged(g, 50, 10, 400.0, last=100.0)),
    "dated a year ahead, 50 accounts": (_alone, lambda g: _ahead(g, 50)),
    "20 accounts that were active for 3 days": (_alone, lambda g: _slow(g, 20, 3)),
    "20 accounts that were active for 30 days": (_alone, lambda g: _slow(g, 20, 30)),
}  # fmt: skip
STRONGEST = "the same, all tags"
# Accounts with a past like that of members are members for every count; the table says what they buy.
WITHOUT_AIM = ("20 accounts that were active for 30 days",)


@dataclass(frozen=True)
class Seen:
    """Of the readers asked: how many have the advertisement first, in the first five, and more than one of it.

    `others` are the other posts of each list.
    """

    first: int
    five: int
    twice: int
    others: Sequence[frozenset[str]]

    def kept(self, before: Seen) -> float:
        """Of the other posts of the lists before, the share that is still there."""
        pairs = list(zip(before.others, self.others, strict=True))
        return sum(len(b & a) for b, a in pairs) / max(1, sum(len(b) for b, _ in pairs))


def main() -> None:
    """Print the table; exit with 1 where an attack moves more readers than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--readers", type=int, default=60)
    parser.add_argument("--only", default="", help="words in the names of the attacks to run")
    parser.add_argument("--home", type=Path, help="a home with the demo communities; default: made anew")
    parser.add_argument("--no-quality", action="store_true", help="leave out the ranking of ordinary readers")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        home = args.home or work / "demo"
        with Agent.open(home, no_llm=True) as agent:
            import_demo(agent)
            agent.build()
        failed = _attacks(home, work, seeds, args.readers, args.only)
        if not args.no_quality:
            _quality(home, work, seeds[0])
    if failed:
        print(f"\nmore than {MOST_MORE} of 60 readers more: {'; '.join(failed)}")
        sys.exit(1)


def _attacks(home: Path, work: Path, seeds: Sequence[int], count: int, only: str) -> list[str]:
    """Print the table of attacks; returns the names of those that move too many readers."""
    histories, rows = read_histories(FOLDER), _posts(home)
    print(
        f"{count} readers, one number a seed ({', '.join(map(str, seeds))}): advertisement first / in the first five\n"
    )
    print("| attack | before | after | lists with two of it | other posts still there |\n|---|---|---|---|---|")
    failed = []
    before: dict[tuple[str, int], Seen] = {}
    for name, (plain, attack) in ATTACKS.items():
        if only not in name:
            continue
        cells: list[tuple[Seen, Seen]] = []
        for seed in seeds:
            found = []
            for make in (plain, attack):
                ground = Ground.of(histories, rows, COMMUNITIES[seed % 2], seed)
                made = make(ground)
                key = (json.dumps(made.posts, sort_keys=True), seed)
                if made.interactions or made.sent or key not in before:
                    seen = _ask(home, work, made, _readers(histories, rows, ground.community, count, seed))
                    if not made.interactions and not made.sent:
                        before[key] = seen
                else:
                    seen = before[key]
                found.append(seen)
            cells.append((found[0], found[1]))
        print(f"| {name} | {_cell([b for b, _ in cells])} | {_cell([a for _, a in cells])} | "
              f"{', '.join(str(a.twice) for _, a in cells)} | "
              f"{', '.join(f'{a.kept(b):.0%}' for b, a in cells)} |", flush=True)  # fmt: skip
        if (
            name not in WITHOUT_AIM
            and max(after.five - earlier.five for earlier, after in cells) > MOST_MORE * count / 60
        ):
            failed.append(name)
    return failed


def _cell(found: Sequence[Seen]) -> str:
    return ", ".join(f"{seen.first}/{seen.five}" for seen in found)


def _posts(home: Path) -> dict[str, Row]:
    with Agent.open(home, no_llm=True) as agent:
        return {post.id: post.to_row() for post in agent.store.all_posts()}


def _readers(histories: Histories, rows: Mapping[str, Row], community: str, count: int, seed: int) -> list[str]:
    """Ordinary readers, drawn from those who have acted on enough posts of the community."""
    inside = np.array([rows[id].get("community") == community for id in histories.posts])
    likes = histories.liked @ inside.astype(np.float32)
    users = sorted(histories.users[place] for place in np.flatnonzero(likes >= LEAST_ACTS))
    return sorted(np.random.default_rng([seed, 1]).choice(users, count, replace=False).tolist())


def _ask(home: Path, work: Path, attack: Attack, readers: Sequence[str]) -> Seen:
    """Carry out an attack on a copy of the home, and ask for every reader's list."""
    with _attacked(home, work, attack) as agent:
        shown = [[item.post.id for item in agent.recommend(user, 5, write=False).items] for user in readers]
    hits = [[id in attack.targets for id in list_] for list_ in shown]
    return Seen(
        first=sum(each[:1] == [True] for each in hits),
        five=sum(map(any, hits)),
        twice=sum(sum(each) > 1 for each in hits),
        others=[frozenset(list_) - attack.targets for list_ in shown],
    )


def _attacked(home: Path, work: Path, attack: Attack) -> Agent:
    """An agent on a fresh copy of the home with the attack in it."""
    copy = work / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    folder = work / "in"
    folder.mkdir(exist_ok=True)
    users = sorted({row["user"] for row in attack.interactions} | {user for user, _ in attack.sent})
    for name, rows in (("posts", attack.posts), ("users", [{"id": user} for user in users]),
                       ("interactions", attack.interactions)):  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    agent = Agent.open(copy, no_llm=True)
    report = agent.import_folder(folder)
    if report.rejects:
        raise SystemExit(f"rows of an attack were rejected: {report.rejects}")
    for user, post in attack.sent:
        agent.feedback(user, post, "like")
    return agent


def _quality(home: Path, work: Path, seed: int) -> None:
    """Print the ranking of ordinary readers on held-out acts, without an attack and with the strongest in its past."""
    histories, rows = read_histories(FOLDER), _posts(home)
    print("\nnDCG@10 of ordinary readers on held-out acts, [95 % over readers]\n")
    print("| ranker | no attack | under attack |\n|---|---|---|")
    ordinary = set(histories.users)
    columns = []
    for make in (None, ATTACKS[STRONGEST][1]):
        if make is None:
            with Agent.open(home, no_llm=True) as agent:
                columns.append(_measured(agent, ordinary, seed))
            continue
        ground = Ground.of(histories, rows, COMMUNITIES[seed % 2], seed)
        # Before the windows that are tested, so that what they are tested with was attacked.
        ground.now -= 120 * DAY
        with _attacked(home, work, make(ground)) as agent:
            columns.append(_measured(agent, ordinary, seed))
    for name in RANKERS:
        print(f"| {name} | {columns[0][name]} | {columns[1][name]} |")


def _measured(agent: Agent, ordinary: set[str], seed: int) -> dict[str, str]:
    groups = [each for each in examples.groups(agent.store, agent.embedder, seed=seed) if each.user in ordinary]
    last = max(group.window for group in groups)
    test = [group for group in groups if group.window > last - 2]
    _, users = np.unique([group.user for group in test], return_inverse=True)
    found = {}
    for name, weights in RANKERS.items():
        values = ndcg(np.array([weights.get(signal, 0.0) for signal in CORE]), test, CORE)
        low, high = bounds(Resampling(users, seed).means(values[:, None].astype(np.float64))[:, 0])
        found[name] = f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
    return found


if __name__ == "__main__":
    main()
