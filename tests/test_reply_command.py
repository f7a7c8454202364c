"""`whyfeed reply`, `evaluate`, `finetune reply`: a line in, an answer out, one clear line for what goes wrong."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests import desk_world as world
from tests.checks import check_shape
from tests.conftest import RunCli
from tests.desk_world import REPLIES, WAITING, customer, until
from tests.world import Row, write_rows
from whyfeed.finetune.desk.reply_measure import RANKERS
from whyfeed.ui.cli.main import app

TALKS: list[Any] = [
    {"id": "a", "turns": until("hotel", "inform")},
    until("parcel", "bye"),
    {"conversation": {"turns": until("zh", "name")}, "relevant": ["zh-name"]},
    {"conversation": until("concert", "name"), "relevant": ["ask-name"]},
    {"turns": WAITING["w-unknown"]},
]
BEST = [world.told("hotel", until("hotel", "inform")[-1]["item"]), *(REPLIES[id] for id in ("goodbye", "zh-name"))]


@pytest.fixture
def desk_home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return world.home_of(tmp_path_factory, tmp_path / "desk")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.make_desk(per_topic=6).write(tmp_path_factory.mktemp("small") / "desk")


def call(home: Path, *arguments: str, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["reply", *arguments, "--home", str(home), "--no-llm"], input=input)


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def documents(output: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines()]
    for document in found:
        check_shape(document, "reply")
    return found


def first(document: dict[str, Any]) -> str:
    return str(document["suggestions"][0]["text"])


def test_every_line_of_a_file_has_its_answer(run_cli: RunCli, desk_home: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "talks.jsonl", TALKS)
    done = run_cli("reply", str(file), "--json", WHYFEED_HOME=str(desk_home))
    assert done.returncode == 0, done.stderr
    found = documents(done.stdout)
    assert len(found) == len(TALKS)
    assert [first(document) for document in found[:3]] == BEST
    assert all(document["handover"] is None for document in found[:4])
    assert found[4]["suggestions"] == []
    assert found[4]["handover"]["reason"]
    assert all("error" not in document for document in found)


def test_a_file_a_zipped_one_and_standard_input_are_read_alike(desk_home: Path, tmp_path: Path) -> None:
    file, zipped = (write_rows(tmp_path / name, TALKS) for name in ("talks.jsonl", "talks.jsonl.gz"))
    windows = tmp_path / "windows.jsonl"
    windows.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    outputs = [call(desk_home, str(path), "--json").stdout for path in (file, zipped, windows)]
    outputs.append(call(desk_home, "--json", input=file.read_bytes()).stdout)
    assert len(documents(outputs[0])) == len(TALKS)
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("talk", TALKS[:3])
@pytest.mark.parametrize("piped", [False, True])
def test_one_document_over_several_lines_is_one(desk_home: Path, tmp_path: Path, talk: Any, piped: bool) -> None:
    text = json.dumps(talk, ensure_ascii=False, indent=2) + "\n"
    (tmp_path / "talk.json").write_text(text, encoding="utf-8")
    done = call(desk_home, "--json", input=text) if piped else call(desk_home, str(tmp_path / "talk.json"), "--json")
    assert done.exit_code == 0, done.stderr
    assert len(documents(done.stdout)) == 1
    assert done.stdout == call(desk_home, "--json", input=lines(talk)).stdout


def test_a_line_of_plain_text_is_what_a_customer_wrote(desk_home: Path) -> None:
    done = call(desk_home, "--json", input="I want to book a room in a hotel\n\n火车票还有吗，我想买\n")
    assert done.exit_code == 0, done.stderr
    assert [first(document) for document in documents(done.stdout)] == [REPLIES["ask-name"], REPLIES["zh-name"]]


BAD = [
    "{bad",
    '{"turns": 5}',
    '{"a": 1}',
    "[1]",
    '{"turns": [{"role": "robot", "text": "x"}]}',
    '{"id": "", "turns": []}',
    '{"turns": [{"role": "customer", "text": "x", "time": "soon"}]}',
    "[" * 5000,
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_line_is_named_and_the_others_are_answered(desk_home: Path, bad: str, place: int) -> None:
    rows = [lines(TALKS[0]).strip(), lines(TALKS[1]).strip()]
    rows.insert(place, bad)
    done = call(desk_home, "--json", input="\n".join(rows) + "\n")
    assert done.exit_code == 1
    found = documents(done.stdout)
    assert len(found) == 3
    assert found[place]["error"].startswith(f"conversation {place + 1}: ")
    assert (found[place]["suggestions"], found[place]["handover"]) == ([], None)
    assert [first(document) for document in found if "error" not in document] == BEST[:2]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("whyfeed: ")]
    assert f"conversation {place + 1}: " in said
    assert "Traceback" not in done.stderr


def test_for_people_there_is_text(desk_home: Path) -> None:
    done = call(desk_home, input=lines(TALKS[0]) + "{bad\n" + lines(TALKS[4], until("hotel", "inform", {"Price": 70})))
    assert done.exit_code == 1
    assert f"1. {BEST[0]}" in done.stdout
    assert "knowledge 5" in done.stdout
    assert "hand over: " in done.stdout
    assert "missing: hotel name" in done.stdout
    assert "conversation 2: not JSON" in done.stderr
    assert "{bad" not in done.stdout


@pytest.mark.parametrize("form", [["--json"], []])
def test_personal_values_are_printed_only_when_asked_for(desk_home: Path, form: Sequence[str]) -> None:
    talks = lines({"turns": WAITING["w-person"]}, WAITING["w-private"])
    name = world.NAMES["en"][0]
    masked, unmasked = call(desk_home, *form, input=talks), call(desk_home, "--unmask", *form, input=talks)
    assert "[name 1]" in masked.stdout
    assert name not in masked.stdout + masked.stderr
    assert name in unmasked.stdout
    assert "[name 1]" not in unmasked.stdout
    if form:
        assert documents(unmasked.stdout) == documents(masked.stdout.replace("[name 1]", name))


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_nothing_in_nothing_out(desk_home: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.jsonl").write_text(content)
    for done in (call(desk_home, str(tmp_path / "empty.jsonl"), "--json"), call(desk_home, "--json", input=content)):
        assert (done.exit_code, done.stdout) == (0, "")


def test_options_reach_the_desk(desk_home: Path) -> None:
    talk = lines(until("hotel", "date"))
    (one,) = documents(call(desk_home, "-k", "1", "--draft", "On which evening", "--json", input=talk).stdout)
    assert [each["text"] for each in one["suggestions"]] == [REPLIES["concert-date"]]
    (two,) = documents(call(desk_home, "-k", "2", "--json", input=talk).stdout)
    assert len(two["suggestions"]) == 2
    (chinese,) = documents(
        call(desk_home, "--wish", "in Chinese", "--json", input=lines(until("hotel", "name"))).stdout
    )
    assert REPLIES["zh-name"] in [each["text"] for each in chinese["suggestions"]]


def test_a_given_conversation_is_kept_nowhere(desk_home: Path) -> None:
    from whyfeed import Agent

    def counts() -> dict[str, int]:
        with Agent.open(desk_home, embedder=world.EMBEDDER, no_llm=True) as agent:
            return agent.desk.store.counts()

    before = counts()
    call(desk_home, input=lines([customer("My mail is zoe@example.com"), customer("xylophone")]))
    assert counts() == before
    assert b"xylophone" not in b"".join(path.read_bytes() for path in desk_home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["reply", "/no/such/file.jsonl"], 1, "/no/such/file.jsonl"),
        (["reply", "broken.jsonl.gz"], 1, "broken.jsonl.gz"),
        (["reply", "-k", "11"], 2, "-k"),
        (["evaluate", "/no/such/folder"], 1, "/no/such/folder"),
        (["evaluate", "/no/such/folder", "--rankers", "best"], 2, "best"),
    ],
)
def test_failures_are_one_clear_line(
    run_cli: RunCli, desk_home: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(lines(*TALKS).encode())[:60])
    given = [str(broken) if each == broken.name else each for each in arguments]
    done = run_cli(*given, WHYFEED_HOME=str(desk_home))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert text in done.stderr
    assert "Traceback" not in done.stderr


# ---- evaluate and finetune reply


def test_evaluate_prints_one_document(run_cli: RunCli, small: Path) -> None:
    done = run_cli("evaluate", str(small), "--json", OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"data", "protocol", "rows", "fitted"}
    assert [row["ranker"] for row in document["rows"]] == list(RANKERS)
    for row in document["rows"]:
        assert set(row) == {"ranker", "metrics", "ci95", "ms_per_user"}
        assert set(row["metrics"]) == set(row["ci95"]) == {"hr@1", "hr@5", "hr@10", "mrr@10"}


def test_evaluate_takes_a_test_file_and_the_rankers_that_are_named(small: Path, tmp_path: Path) -> None:
    row = {"conversation": until("zh", "inform"), "relevant": ["zh-inform"]}
    broken: Row = {"conversation": [], "relevant": []}
    test = write_rows(tmp_path / "test.jsonl", [row, broken])
    arguments = ["evaluate", str(small), "--test", str(test), "--rankers", "popularity, nearest"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [each["ranker"] for each in document["rows"]] == ["popularity", "nearest"]
    assert document["rows"][1]["metrics"]["hr@1"] == 1.0
    assert "fitted" not in document
    text = CliRunner().invoke(app, arguments)
    assert re.search(r"^nearest +1\.000 \[1\.000, 1\.000\]", text.stdout, re.MULTILINE)
    assert "1 rows of the test" in text.stderr


def test_finetune_reply_says_how_the_gate_decided(small: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    assert CliRunner().invoke(app, ["import", str(small), "--home", home]).exit_code == 0
    done = CliRunner().invoke(app, ["finetune", "reply", "--home", home, "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"live", "why", "card"}
    assert document["live"] is False
    assert "hand-set weights stay" in document["why"]
    text = CliRunner().invoke(app, ["finetune", "reply", "--home", home])
    assert text.stdout.strip() == document["why"]
