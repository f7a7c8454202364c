"""The type of callbacks that report the progress of long work."""

from __future__ import annotations

from collections.abc import Callable

# Arguments: a description of the work ("reading posts"), the amount done, and the total. The unit depends on the work:
# posts, steps, bytes. Where the total is not known in advance, it equals the amount done. It is called from the thread
# that does the work, possibly from several threads at once.
Progress = Callable[[str, int, int], None]
