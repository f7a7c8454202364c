"""Quality and speed of the clauses about posts; prints every clause for review by a person.

python -m benchmarks.clauses --posts 50 --language en
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from whyfeed.agent.llm.engine import Engine
from whyfeed.agent.llm.open import open_engine
from whyfeed.agent.reasons.clauses import ClauseBook
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.community.embedder import open_embedder
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.exchange import find_file, read_rows


class Shelf:
    """Keeps clauses in memory only, so that every run writes new ones."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], dict[str, Any]] = {}

    def kept(self, kind: str, key: str) -> dict[str, Any] | None:
        """See `agent.reasons.clauses.Shelf`."""
        return self.documents.get((kind, key))

    def keep(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """See `agent.reasons.clauses.Shelf`."""
        self.documents[kind, key] = document


def report(posts: list[Post], book: ClauseBook, language: str) -> None:
    """Write and print a clause for every post, then the share of each source and the times."""
    counts: Counter[str] = Counter()
    seconds = []
    for post in posts:
        start = time.perf_counter()
        clause = book.write(post, language)
        seconds.append(time.perf_counter() - start)
        counts[clause.source] += 1
        places = ", ".join(f"{field}[{start}:{end}]" for field, start, end in clause.spans)
        print(
            f"{post.id}  {post.title}\n    {clause.source} {seconds[-1]:.1f} s  {clause.text}\n    {places}", flush=True
        )
    seconds.sort()
    shares = ", ".join(f"{source} {count / len(posts):.0%}" for source, count in counts.most_common())
    print(f"\n{len(posts)} posts, {language}, {book.writer_name()}, {book.version(language)}: {shares}; ", end="")
    print(f"{sum(seconds) / len(seconds):.1f} s a clause, median {seconds[len(seconds) // 2]:.1f} s")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("retrieval/demo"), help="exchange folder with posts.jsonl")
    parser.add_argument("--posts", type=int, default=50)
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the sample of posts")
    parser.add_argument("--writer", default=Settings().writer, help="manifest name, GGUF file, or URL of a server")
    arguments = parser.parse_args()
    path = find_file(arguments.data, "posts")
    if path is None or arguments.posts < 1:
        parser.error(f"no posts to read in {str(arguments.data)!r}")
    rows = [row for _, row, _ in read_rows(path) if row is not None]
    posts = [Post.from_row(row) for row in random.Random(arguments.seed).sample(rows, min(arguments.posts, len(rows)))]
    engine: Engine = open_engine(arguments.writer)
    try:
        report(posts, ClauseBook(Shelf(), lambda: engine, open_embedder(Settings().embedder)), arguments.language)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
