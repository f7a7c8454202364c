"""The command `whyfeed models`: model weights, trained models and their live versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, bars, print_json, tell

if TYPE_CHECKING:
    from whyfeed.agent.registry import Registry

models_app = typer.Typer(
    no_args_is_help=True,
    help="Manage model weights (list, pull, verify) and the versions of trained models.\n\n"
    "Example: whyfeed models list",
)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the weights that whyfeed knows, and whether they are downloaded.

    Example: whyfeed models list
    """
    from whyfeed.agent.llm.weights import WEIGHTS

    rows = [
        {
            "name": weights.name, "role": weights.role, "size": weights.size, "sha256": weights.sha256,
            "licence": weights.licence, "from": [source.name for source in weights.sources],
            "state": weights.state(), "path": str(weights.path),
        }
        for weights in WEIGHTS
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    for row in rows:
        megabytes = int(str(row["size"])) / 1e6
        tell("{:9} {:38} {:8.1f} MB  {:8} {}", row["role"], row["name"], megabytes, row["state"], row["licence"])


@models_app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Names or roles of weights; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Download weights, verify them, and store them in the user's cache folder.

    Example: whyfeed models pull writer
    """
    from whyfeed.agent.llm.weights import WEIGHTS, find, pull

    chosen = [find(name) for name in names] if names else list(WEIGHTS)
    paths = {}
    with bars() as progress:
        for weights in chosen:
            paths[weights.name] = str(pull(weights, progress.bytes))
    if as_json:
        print_json(paths)
    else:
        for name, path in paths.items():
            tell("{}: {}", name, path)


@models_app.command("verify")
def models_verify(as_json: Json = False) -> None:
    """Verify the SHA-256 of all downloaded weights.

    Example: whyfeed models verify
    """
    from whyfeed.agent.llm.weights import WEIGHTS, verify
    from whyfeed.retrieval.errors import WeightsError

    found = {}
    for weights in WEIGHTS:
        if weights.state() == "missing":
            found[weights.name] = "missing"
            continue
        try:
            verify(weights)
            found[weights.name] = "ok"
        except WeightsError as exc:
            found[weights.name] = str(exc)
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            tell("{}: {}", name, state)
    if any(state not in ("ok", "missing") for state in found.values()):
        raise typer.Exit(1)


@models_app.command("versions")
def models_versions(
    name: Annotated[str | None, typer.Argument(help="Name of a model; default: all.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the trained versions of this home's models, which of them are live, and the gate's decisions.

    Example: whyfeed models versions ranker
    """
    registry = _registry(home)
    found = {each: registry.versions(each) for each in ([_trained(registry, name)] if name else registry.names())}
    if as_json:
        print_json({each: [record.to_json() for record in records] for each, records in found.items()})
        return
    from whyfeed.retrieval.clock import format_time

    for each, records in found.items():
        if trouble := registry.trouble(each):
            tell("{}: {}", each, trouble, err=True)
        elif not any(record.live for record in records):
            tell("{}: what is built in is live", each)
        for record in records:
            gate = record.card.get("gate")
            why = record.trouble or str(gate.get("why", "") if isinstance(gate, dict) else "")
            state = "damaged" if record.trouble else "live" if record.live else ""
            tell("{:10} {:4}  {:8} {:16}  {}", each, record.version, state, str(format_time(record.when))[:16], why)
    if not found:
        tell("nothing has been trained in this home yet; see whyfeed finetune", err=True)


@models_app.command("rollback")
def models_rollback(
    name: Annotated[str, typer.Argument(help="Name of the model.")], home: Home = None, as_json: Json = False
) -> None:
    """Return to the version that was live before, or to the built-in model.

    Example: whyfeed models rollback ranker
    """
    registry = _registry(home)
    _print_live(name, registry.rollback(_trained(registry, name)), as_json)


@models_app.command("use")
def models_use(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str, typer.Argument(help="Number of the version, or built-in.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a version live, whatever the gate decided.

    Example: whyfeed models use ranker 2
    """
    if version != "built-in" and not version.isdecimal():
        raise ValueError(f"version {version!r} is neither a number nor built-in; `whyfeed models versions` lists them")
    registry, chosen = _registry(home), None if version == "built-in" else int(version)
    registry.promote(_trained(registry, name), chosen)
    _print_live(name, chosen, as_json)


def _registry(home: Path | None) -> Registry:
    from whyfeed.agent.registry import Registry
    from whyfeed.agent.settings import Settings

    return Registry((Settings() if home is None else Settings(home=home)).home.expanduser())


def _trained(registry: Registry, name: str) -> str:
    """The name, after checking that it has versions. Raises DataError otherwise."""
    from whyfeed.retrieval.errors import DataError

    names = registry.names()
    if name not in names:
        raise DataError(f"no trained model {name!r} in this home; there are: {', '.join(names) or 'none'}")
    return name


def _print_live(name: str, version: int | None, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "live": version})
    else:
        tell("{}: {} is live", name, "what is built in" if version is None else f"version {version}")
