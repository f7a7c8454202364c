"""Erasing somebody: no file of the home holds their id or their words afterwards, whoever uses it at the moment."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.test_service import MASTER, Asking, serving
from tests.world import NOW
from whyfeed import Agent
from whyfeed.agent.answer import ItemsReady
from whyfeed.agent.phrases import say
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import DataError, UnknownConversation, UnknownUser
from whyfeed.retrieval.store.keys import Keys
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.page.session import Session

USER = "Zerlinda-Quokka:Ω7"
WORDS = ("quixotry", "zanzibar", "xylophone", "jabberwock", "okapi斑驴")
NAME = "Zerlinda the Brisk"


def traces(home: Path, *words: str) -> list[tuple[str, str]]:
    """(file, word) wherever a file of the home holds a word: in UTF-8, in UTF-16, or as JSON spells it."""
    found = []
    for path in sorted(home.rglob("*")):
        data = path.read_bytes().lower() if path.is_file() else b""
        for word in words:
            forms = {word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be"), json.dumps(word)[1:-1].encode()}
            found += [(str(path.relative_to(home)), word) for form in forms if form.lower() in data]
    return found


def write_rows(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def talk(id: str, *texts: str, status: str = "waiting", customer: str = USER) -> dict[str, Any]:
    roles = ("customer", "agent")
    turns = [{"role": roles[place % 2], "text": text, "time": place} for place, text in enumerate(texts)]
    return {"id": id, "turns": turns, "status": status, "customer": customer}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user, a post of theirs, rejected rows about them, and what they wrote to the desk."""
    return write_rows(
        tmp_path / "more",
        users=[{"id": USER, "name": NAME}],
        posts=[{"id": "zebra-post", "title": "Pruning roses", "text": "Prune them in March.", "author": USER,
                "top_answer_author": USER, "answers": [{"by": USER}]}],
        interactions=[
            {"user": USER, "post": "clocks-1", "kind": "like", "time": 1},
            {"user": USER, "post": "nowhere", "kind": "like", "text": WORDS[0]},
            {"user": "u1", "post": "nowhere", "kind": "like"},
        ],
        follows=[{"from": USER, "to": "u1", "weight": 1}, {"from": "u2", "to": USER, "weight": 1}],
        conversations=[
            talk("closed-one", f"My {WORDS[2]} is broken", f"Which {WORDS[2]}?", "The big one", status="closed"),
            talk("open-one", f"Where is the {WORDS[3]} that I ordered? I am {NAME}"),
            talk("of-another", "Where is my parcel?", "It is on its way.", status="closed", customer="somebody"),
        ],
    )  # fmt: skip


@pytest.fixture
def peopled(agent: Agent, folder: Path) -> Agent:
    agent.import_folder(folder)
    return agent


@pytest.fixture
def other(home: Path) -> Iterator[Agent]:
    """Another process's agent over the same home, as good as."""
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: NOW) as opened:
        yield opened


# ---- everything, from everywhere


def use(agent: Agent) -> str:
    """Do all that leaves something; returns the conversation."""
    for text in (f"something about {WORDS[1]}", f"more {WORDS[4]}", f"less {WORDS[0]}"):
        *_, answer = agent.chat(USER, text)
    agent.feedback(USER, "clocks-2", "save")
    agent.recommend("u2")
    list(agent.desk.suggest("open-one"))
    agent.desk.send("open-one", f"Your {WORDS[3]} is on its way")
    agent.desk.receive("open-one", f"And the {WORDS[2]}? My mail is {WORDS[0]}@example.com")
    return str(answer.conversation)  # type: ignore[union-attr]


def test_nothing_is_left_while_others_use_the_home(peopled: Agent, other: Agent, home: Path) -> None:
    use(peopled)
    other.recommend("u3")
    assert {word for _, word in traces(home, USER, NAME, *WORDS)} == {USER, NAME, *WORDS}
    other.erase(USER)
    assert traces(home, USER, NAME, *WORDS) == []
    with pytest.raises(UnknownUser):
        peopled.recommend(USER)
    with pytest.raises(UnknownUser):
        other.erase(USER)
    assert peopled.post("zebra-post").author == ""
    assert peopled.desk.store.conversation("of-another").turns
    assert peopled.recommend("u2").items
    rejected = [line for path in (home / "rejects").iterdir() for line in path.read_text().splitlines()]
    assert [json.loads(line)["row"]["user"] for line in rejected] == ["u1"]


def test_a_conversation_of_the_desk_is_erased_by_its_id(peopled: Agent, home: Path, run_cli: RunCli) -> None:
    use(peopled)
    told = run_cli("erase", "--conversation", "open-one", "--yes", "--json")
    assert json.loads(told.stdout) == {"conversation": "open-one", "erased": True}
    assert traces(home, "open-one", WORDS[3]) == []
    with pytest.raises(UnknownConversation):
        peopled.desk.store.conversation("open-one")
    assert peopled.user(USER).name == NAME
    assert "unknown conversation" in run_cli("erase", "--conversation", "open-one", "--yes").stderr
    for both in ((), (USER, "--conversation", "of-another")):
        assert "either a user or --conversation" in run_cli("erase", *both).stderr


def test_a_customer_who_never_read_and_an_author_can_be_erased(agent: Agent, home: Path, tmp_path: Path) -> None:
    agent.import_folder(
        write_rows(
            tmp_path / "rows", conversations=[talk("only", f"Where is the {WORDS[3]}?", customer="Quokka-customer")],
            posts=[{"id": "rose", "title": "Roses", "author": "Quokka-author"}],
        )
    )  # fmt: skip
    for user in ("Quokka-customer", "Quokka-author"):
        agent.erase(user)
        with pytest.raises(UnknownUser):
            agent.erase(user)
    assert traces(home, "Quokka-customer", "Quokka-author", WORDS[3]) == []
    assert agent.post("rose").title == "Roses"


def test_words_that_were_deleted_before_leave_an_older_home_when_it_is_opened(home: Path) -> None:
    """FTS5 keeps the words of deleted rows until parts of its index are merged."""
    with closing(Store(home)) as store, store.database.write() as db:
        for number in range(40):
            words = f"{WORDS[2]} {WORDS[3]}" if number == 7 else f"ordinary parcel {number}"
            db.execute("INSERT INTO desk_search (rowid, asked, before) VALUES (?, ?, '')", [number + 1, words])
        db.execute("DELETE FROM desk_search WHERE rowid = 8")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm007_erased_words'")
    assert traces(home, WORDS[3])
    Store(home).close()
    assert traces(home, WORDS[2], WORDS[3]) == []


def test_the_values_of_a_closed_conversation_leave_the_log_too(peopled: Agent, other: Agent, home: Path) -> None:
    peopled.desk.receive("open-one", f"My mail is {WORDS[1]}@example.com")
    assert traces(home, WORDS[1])
    peopled.desk.close("open-one")
    assert traces(home, WORDS[1]) == []


def test_a_forgotten_event_leaves_the_log_too(peopled: Agent, other: Agent, home: Path) -> None:
    rule = peopled.steer("u4", WORDS[1], "less")
    assert traces(home, WORDS[1])
    peopled.forget("u4", rule.id)
    assert traces(home, WORDS[1]) == []


# ---- while something else happens


def test_a_reader_of_old_pages_delays_the_clearing_until_the_next_write(peopled: Agent, home: Path) -> None:
    use(peopled)
    with closing(sqlite3.connect(home / "whyfeed.db", isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM events").fetchone()
        peopled.erase(USER)
        assert {file for file, _ in traces(home, USER)} == {"whyfeed.db", "whyfeed.db-wal"}
        peopled.feedback("u1", "clocks-1", "like")  # others are not kept waiting
    peopled.feedback("u1", "clocks-2", "like")
    assert traces(home, USER, *WORDS) == []


def test_what_a_killed_process_left_uncleared_is_cleared_by_the_next_one(home: Path) -> None:
    with closing(sqlite3.connect(home / "whyfeed.db")) as killed:
        killed.execute("INSERT INTO users VALUES ('gone', '', ?, '{}')", [WORDS[1]])
        killed.commit()
        killed.execute("DELETE FROM users WHERE id = 'gone'")
        killed.execute("INSERT INTO meta VALUES ('erased', 'before the log was cleared')")
        killed.commit()
        assert traces(home, WORDS[1]) == [("whyfeed.db-wal", WORDS[1])]
        Store(home).close()
        assert traces(home, WORDS[1]) == []


@pytest.mark.parametrize("act", ["recommend", "feedback", "steer", "chat"])
def test_what_was_being_made_is_not_stored_after_the_erasure(home: Path, folder: Path, other: Agent, act: str) -> None:
    """The clock is read after the user was looked up and before anything is written."""
    acts: dict[str, Callable[[Agent], Any]] = {
        "recommend": lambda agent: agent.recommend(USER),
        "feedback": lambda agent: agent.feedback(USER, "clocks-1", "like"),
        "steer": lambda agent: agent.steer(USER, WORDS[1], "less"),
        "chat": lambda agent: list(agent.chat(USER, f"more {WORDS[1]}")),
    }
    other.import_folder(folder)
    erase: list[Callable[[], None]] = []

    def clock() -> float:
        if erase:
            erase.pop()()
        return NOW

    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=clock) as agent:
        agent.build()
        erase.append(lambda: other.erase(USER))
        with pytest.raises(UnknownUser):
            acts[act](agent)
    assert not erase
    assert traces(home, USER, WORDS[1]) == []


def test_a_list_that_is_shown_when_its_reader_is_erased_is_not_remembered(peopled: Agent, home: Path) -> None:
    events = peopled.chat(USER, f"something about {WORDS[1]}")
    while not isinstance(next(events), ItemsReady):
        pass
    peopled.erase(USER)
    with pytest.raises(DataError):
        list(events)
    assert traces(home, USER, WORDS[1]) == []


def test_an_answer_made_of_a_forgotten_event_keeps_its_words_alone(peopled: Agent, other: Agent) -> None:
    liked = peopled.feedback("u4", "clocks-3", "like")
    events = peopled.chat("u4", "What should I read?")
    while not isinstance(next(events), ItemsReady):
        pass
    other.forget("u4", liked.id)
    *_, answer = events
    turn = peopled.turns(answer.conversation)[-1]  # type: ignore[union-attr]
    spoken = json.dumps(peopled.traces("u4")) + json.dumps(turn.answer)
    assert turn.text
    assert f'"{liked.id}"' not in spoken


def test_nothing_is_noted_of_a_conversation_that_was_forgotten_meanwhile(peopled: Agent, other: Agent) -> None:
    suggesting = peopled.desk.suggest("open-one")
    other.desk.forget("open-one")
    with pytest.raises(UnknownConversation):
        list(suggesting)
    assert peopled.store.events(user="desk:open-one") == []


# ---- by a word in the chat


def test_a_key_that_may_not_erase_is_told_who_can(peopled: Agent) -> None:
    secret = Keys(peopled.store).add("bound", ["feedback"], [USER])

    def said(client: Asking, secret: str, text: str, conversation: str | None) -> tuple[str, str]:
        stream = client.ask("chat", secret, user=USER, text=text, conversation=conversation).text
        answer = json.loads(stream.split("event: answer")[1].split("data: ")[1].split("\n")[0])
        return answer["text"], answer["conversation"]

    with serving(peopled) as client:
        text, conversation = said(client, secret, "Forget everything", None)
        assert "whyfeed erase" in text
        said(client, secret, "yes", conversation)
        assert peopled.user(USER).name == NAME
        text, conversation = said(client, MASTER, "Delete my account", None)
        assert text == say("chat.erase.ask", "en")
        assert said(client, MASTER, "yes", conversation)[0] == say("chat.erase.done", "en")
        assert client.ask("recommend", MASTER, user=USER).status_code == 404
    assert traces(peopled.home, USER) == []


def test_the_page_wants_another_reader_after_the_erasure(peopled: Agent) -> None:
    session = Session(peopled)
    session.act({"do": "start"})
    session.act({"do": "choose", "user": USER})
    for text in ("Forget everything", "yes"):
        list(session.ask(text))
    view = session.view()
    assert (view["user"], view["turns"], view["running"]) == (None, [], False)
    assert view["notice"]["text"] == say("chat.erase.done", "en")
    assert traces(peopled.home, USER) == []


# ---- keys


def test_a_key_of_the_erased_alone_goes_and_others_lose_them(peopled: Agent) -> None:
    keys = Keys(peopled.store)
    alone = keys.add("alone", ["read"], [USER])
    shared = keys.add("shared", ["read"], [USER, "u1"])
    keys.add("everybody", ["read"])
    peopled.erase(USER)
    assert keys.find(alone) is None
    found = keys.find(shared)
    assert found is not None
    assert found.users == {"u1"}
    assert [key.name for key in keys.all()] == ["everybody", "shared"]


# ---- batch jobs


def job(home: Path, users: list[str] | None, format: str = "jsonl") -> Path:
    folder = home / "jobs" / ("0" * 31 + ("1" if users is None else "2"))
    folder.mkdir(parents=True)
    asked = {"users": users, "k": 2, "llm": False, "format": format, "created": 1.0}
    (folder / "asked.json").write_text(json.dumps(asked))
    return folder


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("named", [False, True])
def test_a_job_that_is_done_loses_the_row(peopled: Agent, home: Path, format: str, named: bool) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    folder = job(home, ["u1", USER, "u2"] if named else None, format)
    report = peopled.batch(["u1", USER, "u2"] if named else None, folder / f"result.{format}", 2, write=False)
    (folder / "state.json").write_text(json.dumps({"report": {"skipped": {"unknown user": [USER, "u9"]}}}))
    if format == "jsonl":
        assert traces(home / "jobs", USER)
    peopled.erase(USER)
    assert traces(home / "jobs", USER) == []
    assert json.loads((folder / "state.json").read_text())["report"]["skipped"] == {"unknown user": ["u9"]}
    if format == "jsonl":
        assert len((folder / "result.jsonl").read_text().splitlines()) == report.done - 1
    else:
        import pyarrow.parquet as pq

        assert USER not in pq.read_table(folder / "result.parquet")["user"].to_pylist()
        assert len(pq.read_table(folder / "result.parquet")) == report.done - 1


@pytest.mark.parametrize("named", [False, True])
def test_a_job_goes_on_without_whoever_is_erased_while_it_runs(
    peopled: Agent, other: Agent, home: Path, named: bool
) -> None:
    users = ["u1", USER, "u2", "u5", "u3"]
    folder = job(home, users if named else None)
    out = folder / "result.jsonl"
    left: list[list[tuple[str, str]]] = []

    def progress(_: str, done: int, __: int) -> None:
        if done == 3 and not left:
            for user in (USER, "u5"):
                other.erase(user)
            left.append(traces(home / "jobs", USER, '"u5"'))

    report = peopled.batch(users if named else None, out, 2, write=False, progress=progress)
    assert left == [[]]
    assert traces(home / "jobs", USER, '"u5"') == []
    rows = [json.loads(line)["user"] for line in out.read_text().splitlines()]
    assert report.complete
    assert {"u1", "u2", "u3"} <= set(rows)
    assert not {USER, "u5"} & set(rows)


def test_a_job_that_was_stopped_is_continued_without_the_erased(peopled: Agent, home: Path) -> None:
    folder, cancel = job(home, ["u1", USER, "u2", "u3"]), threading.Event()
    out = folder / "result.jsonl"
    peopled.batch(["u1", USER, "u2", "u3"], out, 2, write=False, progress=lambda *_: cancel.set(), cancel=cancel)
    assert not out.exists()
    peopled.erase(USER)
    assert traces(home / "jobs", USER) == []
    asked = json.loads((folder / "asked.json").read_text())
    assert asked["users"] == ["u1", "u2", "u3"]
    assert peopled.batch(asked["users"], out, 2, write=False).complete
    assert [json.loads(line)["user"] for line in out.read_text().splitlines()] == ["u1", "u2", "u3"]


# ---- the real commands, with the service running


@pytest.mark.slow
def test_nothing_is_left_while_the_service_runs(home: Path, folder: Path, run_cli: RunCli) -> None:
    assert run_cli("import", str(folder)).returncode == 0
    assert run_cli("keys", "add", "bound", "--scope", "read", "--user", USER).returncode == 0
    environment = {
        **os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_API_KEY": "the key",
        "WHYFEED_NO_LLM": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "whyfeed", "serve", "--no-page", "--port", "0"], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as service:  # fmt: skip
        try:
            assert service.stdout is not None
            address = next(
                found[0] for line in service.stdout if (found := re.search(r"http://[\d.]+:\d+", line)) is not None
            )
            with httpx.Client(base_url=address, headers={"Authorization": "Bearer the key"}, timeout=60) as client:
                until = time.monotonic() + 90
                while client.get("/ready").status_code != 200:
                    assert time.monotonic() < until
                    time.sleep(0.2)

                def ask(operation: str, status: int = 200, **arguments: Any) -> Any:
                    answered = client.post(f"/v1/{operation}", json=arguments)
                    assert answered.status_code == status, answered.text
                    return answered

                for text in (f"something about {WORDS[1]}", f"more {WORDS[4]}", f"less {WORDS[0]}"):
                    assert "event: answer" in ask("chat", user=USER, text=text).text
                ask("feedback", user=USER, post="clocks-2", kind="like")
                ask("suggest-reply", conversation="open-one", llm=False)
                for users in (None, ["u1", USER]):
                    id = ask("batch", 202, users=users, k=2, llm=False, format="jsonl").json()["id"]
                    until = time.monotonic() + 90
                    while client.get(f"/v1/batch/{id}").json()["state"] != "done":
                        assert time.monotonic() < until
                        time.sleep(0.1)
                assert {word for _, word in traces(home, USER, *WORDS)} == {USER, *WORDS}
                erased = run_cli("erase", USER, "--yes")
                assert (erased.returncode, erased.stderr) == (0, "")
                assert traces(home, USER, NAME, *WORDS) == []
                ask("recommend", 404, user=USER)
                assert ask("recommend", user="u1").json()["items"]
                assert traces(home, USER, NAME, *WORDS) == []
        finally:
            service.terminate()
    assert traces(home, USER, NAME, *WORDS) == []
