"""The errors that whyfeed raises, grouped by who must act: caller, operator, or a fallback.

WhyfeedError
├── DataError      the caller gave something that cannot be used: an unknown user, a broken folder
│   ├── UnknownUser
│   │   └── ReservedUser
│   ├── UnknownPost
│   ├── UnknownEvent
│   └── UnknownConversation
├── HomeError      the operator must act: disk, a newer database, a port in use, broken weights
│   └── WeightsError
└── ModelError     a language model failed or is missing; callers fall back and say so
    └── UnreachableError

A message names the thing with ``{x!r}`` and ends with what to do. Errors of other libraries are
translated once, where they enter. Bad arguments of the Python interface raise ``ValueError``.
"""


class WhyfeedError(Exception):
    """Base of everything that whyfeed raises on purpose; its text can be shown to users."""


class DataError(WhyfeedError):
    """Input that cannot be used."""


class UnknownUser(DataError):
    """No such user in this home."""

    def __init__(self, user: str) -> None:
        super().__init__(f"unknown user {user!r}; `whyfeed users` lists those that this home knows")


class ReservedUser(UnknownUser):
    """An id that no user can have; see `retrieval.user.is_reserved`."""

    def __init__(self, user: str) -> None:
        DataError.__init__(
            self, f"{user!r} is no user: ids that begin with 'desk:' are the service desk's own; give another id"
        )


class UnknownPost(DataError):
    """No such post in this home."""

    def __init__(self, post: str) -> None:
        super().__init__(f"unknown post {post!r}; import it first, or check the id")


class UnknownEvent(DataError):
    """No such event of this user in the ledger."""

    def __init__(self, event: str, user: str) -> None:
        super().__init__(f"user {user!r} has no event {event!r}; `whyfeed export {user}` lists them")


class UnknownConversation(DataError):
    """No such conversation at the service desk."""

    def __init__(self, conversation: str) -> None:
        super().__init__(f"unknown conversation {conversation!r}; import it first, start it, or check the id")


class HomeError(WhyfeedError):
    """A problem of the home folder or the machine that the operator of whyfeed must solve."""


class WeightsError(HomeError):
    """Model weights are missing, truncated, or not the ones that were pinned."""


class ModelError(WhyfeedError):
    """A language model could not answer; the caller uses its fallback and the trace says so."""


class UnreachableError(ModelError):
    """The server of a model does not answer, or answers every request with a failure."""


def one_line(exc: BaseException, limit: int | None = 300) -> str:
    """The message of an exception on one line, cut to `limit` characters; the name of its class if it is empty."""
    return " ".join(str(exc).split())[:limit] or type(exc).__name__
