"""`whyfeed evaluate` on posts: the document, what it is sure of, and the page."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from tests.conftest import RunCli
from tests.ranking_world import EMBED, bought, event, judged, write_folder
from tests.world import Row, write_rows
from whyfeed.finetune.evaluation.measure import OURS, RANKERS, measure
from whyfeed.finetune.evaluation.metrics import CLICK, RANKING
from whyfeed.finetune.evaluation.report import page
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.errors import DataError, ModelError, WeightsError
from whyfeed.ui.cli.main import app

QUICK = ("popularity", "text", "item-knn", "item-mean", "whyfeed-no-llm")
ROW = {"ranker", "metrics", "ci95", "ms_per_user", "fit_seconds", "beyond", "buckets", "paired"}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bought(tmp_path_factory.mktemp("ring") / "ring")


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged(tmp_path_factory.mktemp("clicks") / "clicks")


def document(folder: Path, test: Path | None = None, rankers: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    found = measure(folder, EMBED, test, rankers, **more).to_json()
    return dict(json.loads(json.dumps(found, allow_nan=False)))


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["ranker"]: row for row in found["rows"]}


def without_times(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ROW - {"ms_per_user", "fit_seconds"}} for row in found["rows"]]


@pytest.mark.parametrize("candidates", [None, 10])
def test_a_ranking_document_is_that_of_the_contract(ring: Path, candidates: int | None) -> None:
    found = document(ring, candidates=candidates)
    assert set(found) == {"data", "protocol", "rows", "gate", "left_out", "reader", "skipped", "seconds"}
    assert (found["data"], found["reader"]) == ("ring", None)
    gate = found["gate"]
    assert (gate["in_place"], gate["challenger"], gate["metric"]) == ("whyfeed-no-llm", "whyfeed", "nDCG@10")
    assert (gate["live"], gate["verdict"]) == (False, "same")  # both are one model so far
    history = found["rows"][-1]["buckets"]["history"]
    assert [(part["history"], part["cases"]) for part in gate["buckets"]] == [
        (part["bucket"], part["rows"]) for part in history
    ]
    assert ("10 uniform negatives" if candidates else "whole catalogue") in found["protocol"]
    assert [row["ranker"] for row in found["rows"]] == list(RANKERS)
    for row in found["rows"]:
        assert set(row) == (ROW | {"parts"} if row["ranker"] in OURS else ROW)
        assert list(row["metrics"]) == list(row["ci95"]) == list(RANKING)
        for name, value in row["metrics"].items():
            low, high = row["ci95"][name]
            assert 0 <= low <= value <= high <= 1
        assert row["metrics"]["hr@200"] == 1
        assert set(row["beyond"]) == {"coverage", "novelty", "diversity", "popularity-bias"}
        assert sum(part["rows"] for part in row["buckets"]["history"]) == 60
        assert sum(part["rows"] for part in row["buckets"]["target"]) == 60
    names = by_name(found)
    assert names["whyfeed"]["metrics"] == names["whyfeed-no-llm"]["metrics"]
    best = {name: row["metrics"]["ndcg@10"] for name, row in names.items()}
    assert best["whyfeed"] > best["text"] > best["random"]
    assert best["whyfeed"] > best["popularity"]
    (alone,) = [name for name, row in names.items() if row["paired"] is None]
    assert best[alone] == max(value for name, value in best.items() if not name.startswith("whyfeed"))
    paired = names["random"]["paired"]
    assert paired["against"] == alone
    assert paired["difference"]["ndcg@10"] == pytest.approx(best["random"] - best[alone], abs=2e-4)
    assert paired["ci95"]["ndcg@10"][1] < 0


def test_a_click_document_is_that_of_the_contract(clicks: Path) -> None:
    found = document(clicks)
    assert found["protocol"].startswith("clicks: the last 20%")
    for row in found["rows"]:
        assert list(row["metrics"]) == list(row["ci95"]) == list(CLICK)
        for name, value in row["metrics"].items():
            low, high = row["ci95"][name]
            assert 0 <= low <= value <= high
        assert row["beyond"] == {}
    names = by_name(found)
    good = {name: row["metrics"] for name, row in names.items()}
    assert good["random"]["auc"] == pytest.approx(0.5, abs=0.1)
    assert good["user-mean"]["auc"] > good["item-mean"]["auc"] > 0.6
    assert good["whyfeed"]["auc"] > 0.65
    assert good["user-mean"]["uauc"] == pytest.approx(good["item-mean"]["uauc"], abs=0.02)
    assert good["user-mean"]["logloss"] < good["random"]["logloss"] < 0.72
    assert good["user-mean"]["ece"] < 0.15


@pytest.mark.parametrize("which", ["ring", "clicks"])
def test_the_same_seed_gives_the_same_document(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    one, two, other = (document(folder, rankers=QUICK, seed=seed) for seed in (0, 0, 1))
    assert without_times(one) == without_times(two)
    assert without_times(one) != without_times(other)


@pytest.mark.parametrize("ranker", ["item-mean", "random"])
def test_who_knows_nothing_ranks_as_chance_does(tmp_path: Path, ranker: str) -> None:
    """Every score is the same: only how ties are broken, and how the target was drawn, could tell."""
    rows = [event(user, (user * 7 + step * step) % 97) for user in range(400) for step in range(8)]
    row = by_name(document(write_folder(tmp_path / "f", rows), rankers=[ranker], candidates=19))[ranker]
    low, high = row["ci95"]["hr@10"]
    assert low < 0.5 < high
    assert row["metrics"]["ndcg@10"] == pytest.approx(0.227, abs=0.04)


def rows_of(folder: Path, rng: random.Random) -> list[Row]:
    posts = [f"{topic}-{at}" for topic in (0, 1) for at in range(20)]
    return [
        {"user": f"u{topic}-{user}", "relevant": [f"{topic}-{user % 20}"], "candidates": rng.sample(posts, 40)}
        for topic in (0, 1)
        for user in range(30)
    ]


def test_the_order_of_candidates_never_decides(ring: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        rows = rows_of(ring, random.Random(seed))
        if seed:  # the right ones first
            rows = [{**row, "candidates": [*row["relevant"], *row["candidates"]]} for row in rows]
        found.append(document(ring, write_rows(tmp_path / "test.jsonl", rows), QUICK))
    assert without_times(found[0]) == without_times(found[1])


def test_unknown_users_and_posts_and_several_right_ones(ring: Path, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"user": "new", "relevant": ["0-1", "0-2"], "candidates": ["0-1", "0-2", "1-1", "unheard"]},
        {"user": "u0-1", "relevant": ["unheard"], "candidates": ["0-1", "1-1"]},
        "no row",
    ]
    found = document(ring, write_rows(tmp_path / "test.jsonl", rows))
    assert found["skipped"] == 1
    history = by_name(found)["whyfeed"]["buckets"]["history"]
    assert next(part["bucket"] for part in history) == "0"
    assert by_name(found)["whyfeed"]["metrics"]["recall@5"] == 1


def test_one_class_users_and_one_class_tests_are_no_trouble(clicks: Path, tmp_path: Path) -> None:
    rows: list[Row] = [{"user": f"u{at % 3}", "post": f"p{at}", "label": 1, "time": None} for at in range(9)]
    found = by_name(document(clicks, write_rows(tmp_path / "ones.jsonl", rows), ["user-mean"]))["user-mean"]
    assert (found["metrics"]["auc"], found["metrics"]["uauc"]) == (0.5, 0.5)
    rows += [{"user": "u0", "post": "p20", "label": 0}]
    found = by_name(document(clicks, write_rows(tmp_path / "one.jsonl", rows), ["user-mean"]))["user-mean"]
    assert found["metrics"]["uauc"] in (0, 1 / 3, 0.3333, 0.6667, 1)


def test_what_cannot_be_asked_for_is_said(ring: Path) -> None:
    with pytest.raises(ValueError, match="'best' is none of random, popularity"):
        measure(ring, EMBED, rankers=["best"])


@pytest.mark.parametrize(("module", "ranker"), [("bm25s", "bm25"), ("implicit", "als")])
def test_without_the_extra_it_is_said_what_to_install(
    ring: Path, monkeypatch: pytest.MonkeyPatch, module: str, ranker: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=r"pip install 'whyfeed\[eval\]'"):
        measure(ring, EMBED, rankers=[ranker])


def test_without_the_extra_what_needs_it_is_left_out(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(ring, EMBED, rankers=["popularity"])  # loads scipy, which it cannot once torch is None
    for module in ("bm25s", "implicit", "lightgbm", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    found = measure(ring, EMBED)
    assert set(found.left_out) == {"bm25", "als", "bpr", "forests of whyfeed"}
    for why in found.left_out.values():
        assert re.fullmatch(r"\w+ is not installed: pip install 'whyfeed\[eval\]'", why)
    assert [row["ranker"] for row in found.rows] == [name for name in RANKERS if name not in found.left_out]


def test_the_command_says_in_one_line_what_is_missing(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bm25s", "implicit"):
        monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(app, ["evaluate", str(ring)])
    assert done.exit_code == 0, done.stderr
    install = "is not installed: pip install 'whyfeed[eval]'"
    assert [line for line in done.stderr.splitlines() if "installed" in line] == [
        f"left out: bm25 (bm25s {install}); als, bpr (implicit {install})"
    ]


def test_who_cannot_take_part_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", [event(user, post, post) for user in range(3) for post in range(3)])
    with (folder / "posts.jsonl").open("a", encoding="utf-8") as posts:
        posts.writelines(f'{{"id": "more{at}"}}\n' for at in range(20_000))
    with pytest.raises(DataError, match="ease keeps"):
        measure(folder, EMBED, rankers=["ease"])
    found = measure(folder, EMBED)
    assert "ease keeps" in found.left_out.pop("ease")
    assert not found.left_out
    assert [row["ranker"] for row in found.rows] == [name for name in RANKERS if name != "ease"]


def test_progress_tells_who_is_measured(ring: Path) -> None:
    told: set[str] = set()
    measure(ring, EMBED, None, ["text"], progress=lambda what, done, total: told.add(what))
    assert told == {"measuring rankers", "ranking by text", "reading texts"}


# ---- the page and the command


@pytest.mark.parametrize("which", ["ring", "clicks"])
def test_the_page_loads_nothing_and_runs_nothing(which: str, request: pytest.FixtureRequest) -> None:
    measured = measure(request.getfixturevalue(which), EMBED, None, QUICK)
    html = page({**measured.to_json(), "data": "<script>alert(1)</script>"}, measured.main)
    assert not re.search(r"<script|<link|<img|https?:|url\(|@import|\son\w+=", html)
    assert ("The gate" in html) == (measured.gate is not None)
    assert html.count("<svg") == html.count("</svg>") == len(measured.main) + 2
    for name in QUICK:
        assert html.count(f">{name}<") >= 3
    for text in (f"{measured.rows[0]['metrics'][measured.main[0]]:.3f} [", "paired", measured.protocol[:20]):
        assert text in html


def test_the_command_prints_one_document(run_cli: RunCli, ring: Path) -> None:
    done = run_cli("evaluate", str(ring), "--json", "--candidates", "5", "--rankers", "popularity,whyfeed")
    assert done.returncode == 0, done.stderr
    assert [row["ranker"] for row in json.loads(done.stdout)["rows"]] == ["popularity", "whyfeed"]


def test_the_command_prints_a_table_and_writes_a_page(ring: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.jsonl", [*rows_of(ring, random.Random(0)), {}])
    place = tmp_path / "page.html"
    arguments = ["evaluate", str(ring), "--test", str(test), "--html", str(place)]
    arguments += ["--rankers", "random, item-knn, whyfeed, whyfeed-no-llm"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"^item-knn +\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", done.stdout, re.MULTILINE)
    assert "1 rows of the test or of the folder" in done.stderr
    assert re.search(r"^gate: whyfeed is the same .*; by length of history: .*\w+$", done.stdout, re.MULTILINE)
    assert "The gate" in place.read_text(encoding="utf-8")
    assert "item-knn" in place.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--rankers", "best"], 2, "best"),
        (["--candidates", "0"], 2, "candidates"),
        (["--encoder", "nothing"], 1, "unknown encoder 'nothing'"),
        (["--encoder", "x.gguf", "--no-llm"], 2, "--no-llm and --encoder exclude each other"),
        (["--html", "/no/such/place/page.html"], 2, "/no/such/place"),
        (["--test", "/no/such/test.jsonl"], 1, "/no/such/test.jsonl"),
    ],
)
def test_failures_are_one_clear_line(run_cli: RunCli, ring: Path, arguments: list[str], code: int, text: str) -> None:
    done = run_cli("evaluate", str(ring), *arguments)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("which", ["ring", "clicks"])
def test_no_language_model_is_opened_where_it_has_nothing_to_do(which: str, request: pytest.FixtureRequest) -> None:
    def opened(texts: Sequence[str]) -> NoReturn:
        raise AssertionError

    found = measure(request.getfixturevalue(which), EMBED, None, ["popularity", "whyfeed"], encoder=opened)
    assert found.reader is None


@pytest.fixture(scope="module")
def liked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough likes for a transformer that a language model's readings go into."""
    rng = random.Random(0)
    liked = [(u, [n * 3 + u % 3 for n in rng.sample(range(40), 13)]) for u in range(900)]
    rows = [event(f"u{u}", f"p{post}", at) for u, posts in liked for at, post in enumerate(posts)]
    posts = [{"id": f"p{at}", "title": f"thing {at}"} for at in range(120)]
    return write_folder(tmp_path_factory.mktemp("liked") / "f", rows, posts)


@pytest.mark.slow
def test_the_language_model_that_read_is_named(liked: Path) -> None:
    asked: list[int] = []

    def opened(texts: Sequence[str]) -> HashReader:
        asked.append(len(texts))
        return HashReader()

    found = measure(liked, EMBED, None, ["whyfeed-no-llm", "whyfeed"], 10, encoder=opened)
    assert (found.reader, asked) == ("hash reader", [120])
    assert found.rows[1]["parts"]["left_out"] or "next llm" in found.rows[1]["parts"]["blend"]


@pytest.mark.slow
def test_without_weights_that_read_the_rest_is_measured_and_it_is_said_why(liked: Path) -> None:
    def opened(texts: Sequence[str]) -> NoReturn:
        raise WeightsError("cannot get 'the-weights'; pull again")

    found = measure(liked, EMBED, None, list(OURS), 10, encoder=opened)
    assert (found.reader, found.left_out) == (None, {"reading of whyfeed": "cannot get 'the-weights'; pull again"})
    first, second = (row["metrics"] for row in found.rows)
    assert first == second


class HashReader:
    """A post encoder that has a word's hash for its meaning."""

    name, dimension = "hash reader", 32

    def encode(self, texts: Sequence[str]) -> Floats:
        return HashEmbedder(self.dimension).encode(texts)


def test_candidates_are_for_rankings(clicks: Path) -> None:
    with pytest.raises(ValueError, match="--candidates is for rankings"):
        measure(clicks, EMBED, candidates=5)


def test_a_page_is_for_posts_only(run_cli: RunCli, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", [event("a", "x")], replies=[{"id": "r", "text": "Hello"}])
    done = run_cli("evaluate", str(folder), "--html", str(tmp_path / "page.html"))
    assert done.returncode == 2
    assert "for tests about posts" in done.stderr
