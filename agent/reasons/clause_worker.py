"""One background thread that writes clauses before they are needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from whyfeed.agent.reasons.clauses import ClauseBook
from whyfeed.retrieval.post import Post


class ClauseWorker:
    """Writes clauses in the background, in the order of the requests.

    It pauses while a request uses the writer (`foreground`), because two uses at once would both be slow.
    """

    def __init__(self, book: ClauseBook) -> None:
        self._book = book
        self._queue: deque[tuple[Post, str]] = deque()
        self._pending: set[tuple[str, str]] = set()  # (post, language) of what is queued or being written
        self._change = threading.Condition()
        self._foreground = 0
        self._stopping = False
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None

    def ahead(self, posts: Sequence[Post], language: str) -> None:
        """Queue the clauses of these posts."""
        with self._change:
            for post in posts:
                if (post.id, language) not in self._pending and not self._stopping:
                    self._pending.add((post.id, language))
                    self._queue.append((post, language))
            if self._thread is None and self._queue:
                self._thread = threading.Thread(target=self._run, name="whyfeed-clauses", daemon=True)
                self._thread.start()
            self._change.notify_all()

    @contextmanager
    def foreground(self) -> Iterator[None]:
        """Pause the background work while this is open; a clause that was being written is started again later."""
        with self._change:
            self._foreground += 1
            self._cancel.set()
        try:
            yield
        finally:
            with self._change:
                self._foreground -= 1
                self._change.notify_all()

    def stop(self) -> None:
        """Stop the thread and wait for it; queued clauses are dropped."""
        with self._change:
            self._stopping = True
            self._cancel.set()
            self._queue.clear()
            self._pending.clear()
            self._change.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._stopping or (self._queue and not self._foreground))
                if self._stopping:
                    return
                post, language = self._queue.popleft()
                self._cancel.clear()
            try:
                written = self._book.write(post, language, self._cancel).source == "llm"
            except Exception:  # a failure of the store or an engine: a request that needs the clause will report it
                written = False
            with self._change:
                if self._cancel.is_set() and not written and not self._stopping:
                    self._queue.appendleft((post, language))
                else:
                    self._pending.discard((post.id, language))
