"""A synthetic community of any size in the exchange format, for timing; its words have no meaning."""

from __future__ import annotations

import json
import random
from pathlib import Path

TOPICS = 200
START = 1_500_000_000.0
DAY = 86_400.0


def write_community(folder: Path, posts: int, users: int, events: int, seed: int = 0) -> None:
    """Write posts, users, events and reply edges. Each user has three topics; popularity is skewed."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
    vocabulary = [["".join(rng.choices(syllables, k=3)) for _ in range(12)] for _ in range(TOPICS)]
    folder.mkdir(parents=True, exist_ok=True)
    topic_of = [rng.randrange(TOPICS) for _ in range(posts)]
    by_topic: list[list[int]] = [[] for _ in range(TOPICS)]
    with (folder / "posts.jsonl").open("w") as file:
        for number, topic in enumerate(topic_of):
            by_topic[topic].append(number)
            words = rng.sample(vocabulary[topic], 5)
            row = {
                "id": f"p{number}", "title": f"How does {' '.join(words[:3])} compare with {words[3]}?",
                "text": " ".join(rng.choices(vocabulary[topic], k=8)), "author": f"u{rng.randrange(users)}",
                "community": f"c{topic % 10}", "tags": [words[0], words[4]], "language": "en",
                "created_at": START + number * 1000 * DAY / posts,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    with (folder / "users.jsonl").open("w") as file:
        for number in range(users):
            file.write(json.dumps({"id": f"u{number}", "name": f"user {number}"}) + "\n")
    tastes = [rng.sample(range(TOPICS), 3) for _ in range(users)]
    with (folder / "interactions.jsonl").open("w") as file:
        for _ in range(events):
            # A few users are far more active than the others, and a few posts far more popular.
            user = (
                min(int(rng.paretovariate(1.1)) - 1 + rng.randrange(users), users - 1)
                if rng.random() < 0.7
                else rng.randrange(20)
            )
            near = by_topic[rng.choice(tastes[user])]
            post = near[int(len(near) * rng.random() ** 2)] if near else rng.randrange(posts)
            created = START + post * 1000 * DAY / posts
            row = {
                "user": f"u{user}", "post": f"p{post}", "kind": rng.choice(("comment", "answer", "save", "like")),
                "time": created + rng.expovariate(1 / (10 * DAY)),
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    with (folder / "follows.jsonl").open("w") as file:
        for number in range(users):
            for _ in range(3):
                file.write(json.dumps({"from": f"u{number}", "to": f"u{rng.randrange(users)}", "weight": 1}) + "\n")
