"""The commands `backup` and `restore`: a home in one file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, print_json, tell


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; an earlier backup is replaced.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the home to one file, also while it is in use. Weights that can be downloaded are left out.

    The file holds personal data, as the home does, and only its owner can read it. See docs/deployment.md.

    Example: whyfeed backup community.backup
    """
    from whyfeed.agent.llm.weights import WEIGHTS, cache_folder
    from whyfeed.retrieval.store.backup import back_up

    weights = {each.name: each.sha256 for each in WEIGHTS if each.module is None and each.state() != "missing"}
    made = back_up(_folder(home), file, time.time(), weights, cache_folder())
    if as_json:
        print_json(made.to_json())
        return
    tell("{}: {} files, {:.1f} MB", made.file, made.files, made.size / 1e6)
    left_out = ", ".join([*made.left_out, *made.weights])
    if left_out:
        tell("left out, computed or downloaded again when needed: {}", left_out, err=True)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `whyfeed backup` wrote.")],
    home: Home = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move a home that has data aside, and take its place.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore a backup into a new or empty home folder, after every file in it has been checked.

    Example: whyfeed restore community.backup --home restored
    """
    from whyfeed.retrieval.store.backup import restore as restore_home

    folder = _folder(home)
    done = restore_home(file, folder, replace=replace)
    if as_json:
        print_json({**done.to_json(), "home": str(folder)})
        return
    tell("{}: {} files restored", folder, done.files)
    if done.before is not None:
        tell("the home that was there is now {}; delete it when all is well", done.before, err=True)
    if done.weights:
        tell("not in a backup: {}; `whyfeed models pull` fetches them", ", ".join(done.weights), err=True)


def _folder(home: Path | None) -> Path:
    from whyfeed.agent.settings import Settings

    return (Settings() if home is None else Settings(home=home)).home.expanduser()
