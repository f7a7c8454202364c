"""The command `batch`: writes explained recommendations for many users to a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.retrieval.lines import read_lines
from whyfeed.ui.cli.terminal import Home, Json, NoLlm, open_agent, print_json, tell
from whyfeed.ui.http.tuning import tune_for_many

if TYPE_CHECKING:
    from whyfeed.agent.batch.output import BatchReport
    from whyfeed.retrieval.progress import Progress


def batch(
    out: Annotated[
        Path, typer.Option(help="Output file: Parquet if it ends in .parquet (extra `parquet`), else JSON Lines.")
    ],
    everybody: Annotated[bool, typer.Option("--all", help="Recommend for all users, see --min-events.")] = False,
    users: Annotated[
        Path | None, typer.Option(help="A file with one user id per line; recommend for these users only.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Number of posts per user.")] = 5,
    min_events: Annotated[int, typer.Option(min=0, help="With --all: leave out users with fewer events.")] = 1,
    language: Annotated[str, typer.Option(help="Language of the reasons: en or zh.")] = "en",
    ray: Annotated[
        bool, typer.Option("--ray", help="Run on a Ray cluster (RAY_ADDRESS, else two local workers).")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the results of an earlier run and start again.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
) -> None:
    """Write explained recommendations for many users to a file. Run it again to resume after a stop.

    Example: whyfeed batch --all --out lists.jsonl
    """
    tune_for_many()
    if everybody == (users is not None):
        raise ValueError("name either --all or --users FILE")
    if language not in ("en", "zh"):
        raise ValueError(f"language {language!r} is neither en nor zh")
    chosen = None if users is None else _ids(users)
    with open_agent(home, no_llm=no_llm) as agent, _bar() as progress:
        try:
            report = agent.batch(
                chosen, out, k, language=language, write=not no_llm, min_events=min_events, ray=ray,  # type: ignore[arg-type]
                restart=restart, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            tell("whyfeed: stopped; run the same command again to go on", err=True)
            raise typer.Exit(1) from None
        state = agent.models.describe("writer")
    if not no_llm and state != "ready":
        tell("the writer is {}, so posts are quoted; `whyfeed models pull` fetches it", state, err=True)
    print_json(report.to_json()) if as_json else _show(report)


def _ids(file: Path) -> list[str]:
    from whyfeed.retrieval.errors import DataError

    try:
        lines = [(line or b"").decode("utf-8-sig").strip() for line in read_lines(file)]
    except UnicodeDecodeError as exc:
        raise DataError(f"{str(file)!r} is not UTF-8 text; give a file with a user id a line") from exc
    return [line for line in lines if line]


def _show(report: BatchReport) -> None:
    before = f" ({report.resumed} of them from before)" if report.resumed else ""
    tell("{} readers with {} posts in {}{}", report.done, report.posts, report.out, before)
    for why, ids in report.skipped.items():
        tell("left out, {}: {} ({}{})", why, len(ids), ", ".join(ids[:3]), " …" if len(ids) > 3 else "")
    if report.short:
        tell("fewer posts than asked for: {} readers, nothing else may be shown to them", report.short)
    sources = ", ".join(f"{source} {count}" for source, count in sorted(report.reasons.items()))
    tell("reasons: {}", sources or "none")
    tell("{}", ", ".join(f"{name} {count} tokens" for name, count in report.tokens.items()) or "no tokens")
    tell("seconds: {}", ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.seconds.items()))


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar with rate and time left on standard error; without a terminal a line for each tenth."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    start, first, said = time.monotonic(), -1, 0
    with bars.Progress(
        bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"), bars.TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        task = shown.add_task("readers", total=None, rate="")

        def progress(what: str, done: int, total: int) -> None:
            nonlocal first, said
            if first < 0:
                first = done - 1  # rows of an earlier run do not count for this run's rate
            seconds = max(time.monotonic() - start, 1e-6)
            rate = (done - first) / seconds * 60
            shown.update(task, description=what, completed=done, total=total, rate=f"{rate:.0f} a minute")
            if not console.is_terminal and (tenth := 10 * done // total) > said:
                said = tenth
                left = (total - done) * seconds / max(done - first, 1)
                tell("{}: {} %, {:.0f} a minute, {:.0f} s left", what, 10 * tenth, rate, left, err=True)

        yield progress
