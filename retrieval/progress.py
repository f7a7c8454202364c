"""How long work says how far it has come."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is done ("reading posts"), how many of it are done, and of how many. The unit is that of the work:
# posts, steps, bytes. Where the total is not known in advance, it equals what is done. Called from the thread that
# works; several threads may call the same one.
Progress = Callable[[str, int, int], None]
