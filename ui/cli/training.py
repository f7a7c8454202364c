"""The commands `whyfeed finetune` and `whyfeed evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from whyfeed.ui.cli.terminal import Home, Json, NoLlm, bars, open_agent, print_json, tell

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.finetune.evaluation.histories import Histories
    from whyfeed.finetune.llm.judge_examples import LabelledPosts

DataDir = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Use an exchange folder instead of the home.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder; default: a new version in the home.")]
Seed = Annotated[int, typer.Option(help="Random seed of examples, order and dropout.")]
Epochs = Annotated[int, typer.Option(min=1, help="Number of passes over the examples.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Stop after this number of steps.")]
Minutes = Annotated[float | None, typer.Option(min=0.01, help="Stop after this many minutes of training.")]
finetune_app = typer.Typer(no_args_is_help=True)


@finetune_app.callback()
def finetune() -> None:
    """Train a model on the data of a home; a gate decides whether the new version goes live.

    Example: whyfeed finetune rank
    """
    import warnings

    # peft asks transformers for names that are deprecated; users of whyfeed cannot change that.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@finetune_app.command("rank")
def finetune_rank(home: Home = None, as_json: Json = False) -> None:
    """Fit the ranking model on the ledger; it goes live only if it beats the current one.

    Example: whyfeed finetune rank
    """
    from whyfeed.finetune.ranking.fit import fit_agent

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        outcome = fit_agent(agent, progress)
    _print_outcome(outcome, as_json)


@finetune_app.command("reply")
def finetune_reply(home: Home = None, as_json: Json = False) -> None:
    """Fit the reply ranker on past conversations; it goes live only if it beats the hand-set weights.

    Example: whyfeed finetune reply
    """
    from whyfeed.finetune.desk.fit import fit_agent

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        outcome = fit_agent(agent, progress)
    _print_outcome(outcome, as_json)


@finetune_app.command("write")
def finetune_write(
    home: Home = None,
    base: Annotated[
        str, typer.Option(help="Causal language model in Hugging Face format: folder or name; default: small.")
    ] = "",
    out: Out = None,
    rank: Annotated[int, typer.Option(min=1, max=16, help="Rank of the LoRA adapter.")] = 8,
    epochs: Epochs = 1,
    steps: Steps = None,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter for the writer on the operators' replies. Run it again to resume after a stop.

    Example: whyfeed finetune write --steps 100
    """
    from whyfeed.agent.desk.drafter import asked_of_writer
    from whyfeed.finetune.config import DEFAULT_BASE
    from whyfeed.finetune.llm.writer import WriterConfig, pairs, train, train_home

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        store = agent.desk.store
        replies = {reply.id: reply for reply in store.replies()}
        learnt = pairs(store.all(), replies, lambda turns, language: asked_of_writer(turns, (), (), language))
        config = WriterConfig(base=base or DEFAULT_BASE, rank=rank, epochs=epochs, steps=steps)
        if out:
            outcome = train(learnt, out, config, progress=progress)
        else:
            outcome = train_home(agent.home, learnt, config, progress=progress)
    _print_outcome(outcome, as_json)


@finetune_app.command("llm")
def finetune_llm(
    home: Home = None,
    form: Annotated[
        Literal["judge", "encoder"],
        typer.Option(
            "--as",
            help="What to train. judge: P(engage) of a user and a post; encoder: a vector for each post.",
        ),
    ] = "judge",
    base: Annotated[
        str, typer.Option(help="Causal language model in Hugging Face format: folder or name; default: small.")
    ] = "",
    method: Annotated[
        str, typer.Option(help="judge: lora (default), dora, adalora, ia3, prefix, adapter; encoder: layers, lora.")
    ] = "",
    rank: Annotated[int, typer.Option(min=1, max=16, help="Rank, length of the prefix, or width of the adapter.")] = 16,
    cut: Annotated[int | None, typer.Option(min=1, metavar="N", help="Keep the base's first N layers.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, metavar="K", help="Train the last K layers only.")] = None,
    epochs: Epochs = 1,
    steps: Steps = None,
    minutes: Minutes = None,
    eval_every: Annotated[int | None, typer.Option(min=1, metavar="STEPS", help="Measure every STEPS steps.")] = None,
    data: DataDir = None,
    out: Out = None,
    report: Annotated[str | None, typer.Option(help="Report each step to tensorboard or wandb.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a language model on the users' events. Run it again to resume after a stop.

    Example: whyfeed finetune llm --as judge --minutes 30
    """
    from whyfeed.finetune.config import DEFAULT_BASE

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        if form == "encoder":
            if epochs != 1 or minutes or eval_every or report:
                raise ValueError("--epochs, --minutes, --eval-every and --report are for --as judge; give --steps")
            settings = {"method": method, "rank": rank, "tuned": layers, "steps": steps}
            given: dict[str, Any] = {name: value for name, value in settings.items() if value}
            given |= {"base": base or DEFAULT_BASE, "seed": seed}
            outcome = _train_encoder(agent, data, out, cut, given, progress)
            _print_outcome(outcome, as_json)
            return
        options: dict[str, Any] = {
            "base": base or DEFAULT_BASE, "method": method or "lora", "rank": rank, "cut": cut, "layers": layers,
            "epochs": epochs, "steps": steps, "minutes": minutes, "eval_every": eval_every, "report": report,
            "seed": seed,
        }  # fmt: skip
        outcome = _train_judge(agent, data, out, options, progress)
    _print_outcome(outcome, as_json)


@finetune_app.command("click")
def finetune_click(
    home: Home = None,
    base: Annotated[str, typer.Option(help="BERT model: folder or name; default: small.")] = "",
    epochs: Epochs = 1,
    steps: Steps = None,
    minutes: Minutes = None,
    data: DataDir = None,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a BERT click classifier on profile and post, as a baseline; the product does not use it.

    Example: whyfeed finetune click --steps 200
    """
    from whyfeed.finetune.config import SMALL_BERT
    from whyfeed.finetune.llm.classifier import ClickConfig, train, train_home

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        config = ClickConfig(
            base=base or SMALL_BERT, epochs=epochs, steps=steps, minutes=minutes, seed=seed, **_source(data)
        )
        learn, held = _shown(agent, data, seed, progress)
        if out:
            outcome = train(learn, held, out, config, progress=progress)
        else:
            outcome = train_home(agent.home, learn, held, config, progress=progress)
    _print_outcome(outcome, as_json)


@finetune_app.command("embed")
def finetune_embed(
    home: Home = None,
    base: Annotated[str, typer.Option(help="Sentence-transformers model: folder or name; default: small.")] = "",
    unsupervised: Annotated[bool, typer.Option("--unsupervised", help="Train on texts alone, without events.")] = False,
    debias: Annotated[bool, typer.Option("--debias", help="Sample pairs of rarely seen posts more often.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Stop after this number of steps.")] = 100,
    minutes: Minutes = None,
    data: DataDir = None,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Tune a sentence embedder on the users' events; WHYFEED_EMBEDDER=tuned (or the folder) then uses it.

    Example: whyfeed finetune embed --debias --steps 100
    """
    from whyfeed.finetune.config import SMALL_BERT
    from whyfeed.finetune.llm.embedder import EmbedderConfig, train, train_home

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        histories = _histories(agent, data, progress)
        config = EmbedderConfig(
            base=base or SMALL_BERT, objective="unsupervised" if unsupervised else None, debias=debias, steps=steps,
            minutes=minutes, seed=seed,
        )  # fmt: skip
        near = None if unsupervised else agent.embedder.encode(histories.texts)
        beside: dict[str, Any] = {"near": near, "in_place": agent.embedder, "progress": progress}
        if out:
            outcome = train(histories, out, config, **beside)
        else:
            outcome = train_home(agent.home, histories, config, **beside)
    _print_outcome(outcome, as_json)


@finetune_app.command("ask")
def finetune_ask(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Id of the user; default: a new user.")] = None,
    home: Home = None,
    count: Annotated[int, typer.Option("-k", min=1, max=100, help="Number of posts.")] = 10,
    data: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the posts to ask a user about next: those whose answers tell most about all others. Trains nothing.

    Example: whyfeed finetune ask alcohol:37 -k 10
    """
    from whyfeed.finetune.ranking.questions import questions

    with open_agent(home, no_llm=True) as agent, bars() as progress:
        histories = _histories(agent, data, progress)
        found = questions(histories, agent.embedder, user, count, progress)
    labels = {each.post: histories.texts[histories.post_rows[each.post]].split("\n")[0][:80] for each in found}
    if as_json:
        print_json([{"post": each.post, "text": labels[each.post], "lowers": each.lowers} for each in found])
        return
    for each in found:
        tell("{:7.2%}  {:24} {}", each.lowers, each.post, labels[each.post])


def _histories(agent: Agent, data: Path | None, progress: Any) -> Histories:
    from whyfeed.finetune.evaluation.histories import read_histories
    from whyfeed.finetune.llm.encoder import of_home

    return of_home(agent.store) if data is None else read_histories(data, progress)


def _source(data: Path | None) -> dict[str, Any]:
    """The source of the examples of `_shown` for a model's card, and their baseline score."""
    return {"data": "ledger", "plain": "popularity"} if data is None else {"data": data.resolve().name}


def _shown(
    agent: Agent, data: Path | None, seed: int, progress: Any
) -> tuple[list[LabelledPosts], list[LabelledPosts]]:
    """Examples for training and for evaluation."""
    from whyfeed.finetune.llm.judge import split
    from whyfeed.finetune.llm.judge_examples import from_folder, from_home

    if data is not None:
        return from_folder(data, seed, progress)
    return split(from_home(agent.store, agent.embedder, seed, progress=progress))


def _train_judge(agent: Agent, data: Path | None, out: Path | None, options: dict[str, Any], progress: Any) -> Any:
    from whyfeed.finetune.llm.judge import JudgeConfig, train, train_home

    config = JudgeConfig(**options, **_source(data))
    learn, held = _shown(agent, data, config.seed, progress)
    if out:
        return train(learn, held, out, config, progress=progress)
    return train_home(agent.home, learn, held, config, progress=progress)


def _train_encoder(
    agent: Agent, data: Path | None, out: Path | None, cut: int | None, options: dict[str, Any], progress: Any
) -> Any:
    from whyfeed.agent.encoder.post_encoder import LAYERS
    from whyfeed.finetune.llm.encoder import EncoderConfig, train, train_home

    histories = _histories(agent, data, progress)
    if cut is not None:
        options["layers"] = sorted({min(LAYERS[0], cut), cut})
    config, near = EncoderConfig(**options), agent.embedder.encode(histories.texts)
    if out:
        return train(histories, out, config, near=near, progress=progress)
    return train_home(agent.home, histories, config, near=near, progress=progress)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder in the exchange format.")],
    test: Annotated[
        Path | None, typer.Option(help="Test rows for posts or replies; default: a part of the folder is held out.")
    ] = None,
    rankers: Annotated[str, typer.Option(help="Rankers to measure, separated by commas; default: all.")] = "",
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Rank each post among N random posts outside the history; default: all posts."
        ),
    ] = None,
    unseen: Annotated[
        bool, typer.Option(help="Test on unseen posts: a tenth of all posts is removed from training.")
    ] = False,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Language model that encodes posts: a name of `whyfeed models`, a GGUF file or a vLLM address; "
            "default: whyfeed's larger model for up to 2,000 posts, else the smaller.",
        ),
    ] = "",
    no_llm: NoLlm = False,
    html: Annotated[Path | None, typer.Option(help="Write an HTML report with plots (posts only).")] = None,
    as_json: Json = False,
) -> None:
    """Measure whyfeed on a folder's posts or replies, next to baselines on the same rows.

    The language model that encodes posts is downloaded if it is missing.

    Example: whyfeed evaluate my-community --candidates 100 --html report.html
    """
    from whyfeed.agent.llm.roles import embedder_of
    from whyfeed.agent.settings import Settings
    from whyfeed.finetune.evaluation.protocol import about_posts

    chosen = [name.strip() for name in rankers.split(",") if name.strip()]
    embedder = embedder_of(Settings())
    if about_posts(folder, test):
        from whyfeed.agent.encoder.post_encoder import opener
        from whyfeed.agent.llm.weights import pull
        from whyfeed.finetune.evaluation.measure import measure

        if html is not None and not html.parent.is_dir():
            # Checked before minutes of work, not after.
            raise ValueError(f"--html: {str(html.parent)!r} is not a folder; make it, or name another")
        if no_llm and encoder:
            raise ValueError("--no-llm and --encoder exclude each other; leave one out")
        with bars() as progress:
            silent = not encoder and (no_llm or Settings().no_llm)
            reader = None if silent else opener(encoder, partial(pull, progress=progress.bytes))
            measured = measure(folder, embedder, test, chosen, candidates, progress, encoder=reader, unseen=unseen)
        if html is not None:
            from whyfeed.finetune.evaluation.report import page
            from whyfeed.retrieval.files import write_whole

            write_whole(html, page(measured.to_json(), measured.main).encode())
        _print_rows(measured, as_json, measured.main)
        if measured.gate is not None and not as_json:
            parts = ", ".join(f"{each['history']} {each['verdict']}" for each in measured.gate["buckets"])
            tell("gate: {}; by length of history: {}", measured.gate["why"], parts)
        if measured.left_out:
            tell("left out: {}", _left_out(measured.left_out), err=True)
        return
    if html is not None or candidates is not None or unseen or encoder:
        raise ValueError(
            "--html, --candidates, --unseen and --encoder are for tests about posts; leave them out for replies"
        )
    from whyfeed.finetune.desk.reply_measure import RANKERS, evaluate_replies

    with bars() as progress:
        found = evaluate_replies(folder, embedder, test, chosen or list(RANKERS), progress)
    _print_rows(found, as_json)
    if not as_json and found.outcome is not None:
        tell("{}", found.outcome.why)


def _print_rows(found: Any, as_json: bool, metrics: Sequence[str] = ()) -> None:
    """Print the document, or a table of some metrics with their intervals."""
    if as_json:
        print_json(found.to_json())
    else:
        shown = metrics or list(found.rows[0]["metrics"])
        tell("{}: {}", found.data, found.protocol)
        tell("{}", f"{'':16}" + "".join(f"{metric:>24}" for metric in shown))
        for row in found.rows:
            cells = [
                f"{row['metrics'][name]:.3f} [{row['ci95'][name][0]:.3f}, {row['ci95'][name][1]:.3f}]" for name in shown
            ]
            tell("{}", f"{row['ranker']:16}" + "".join(f"{cell:>24}" for cell in cells))
        for row in found.rows:
            if "parts" in row:
                tell("{} is made of {}", row["ranker"], _made_of(row["parts"]))
    if found.skipped:
        where = "the test or of the folder" if metrics else "the test"
        tell("{} rows of {} are none and were left out", found.skipped, where, err=True)


def _left_out(reasons: Mapping[str, str]) -> str:
    """The rankers left out, grouped by reason, on one line."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(each)} ({why})" for why, each in names.items())


def _made_of(parts: Mapping[str, Any]) -> str:
    """The parts of a ranking core and what each of them gained, in words."""
    blend = ", ".join(
        f"{name} (+{parts['gains'][name]:.3f} nats)" if name in parts["gains"] else name for name in parts["blend"]
    )  # fmt: skip
    forests = [
        f"a forest for the posts {name} the top: nDCG@10 {each['blend']:.3f} to {each['with']:.3f}, "
        + ("on" if each["live"] else "off")
        for name, each in parts["forests"].items()
    ]
    left_out = [f"left out: {parts['left_out']}"] if parts.get("left_out") else []
    return "; ".join([blend, *forests, *left_out])


def _print_outcome(outcome: Any, as_json: bool) -> None:
    if as_json:
        print_json({"live": outcome.live, "why": outcome.why, "card": outcome.card})
    else:
        tell("{}", outcome.why)
