"""Keys: what a key may, that its secret is nowhere; the commands that make, list and remove keys, and serve."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.test_service import wait_ready
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.store.keys import Keys
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.http.access import Access, Refused


def test_a_key_is_found_by_its_secret_alone(store: Store) -> None:
    keys = Keys(store)
    secret = keys.add("shop", ["read", "feedback"], ["u1"], 5)
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.scopes, found.users, found.per_minute) == (
        "shop", {"read", "feedback"}, {"u1"}, 5,
    )  # fmt: skip
    assert keys.find("shop") is keys.find(secret[:-1]) is keys.find("\ud800") is None


def test_a_secret_is_kept_nowhere(store: Store) -> None:
    secret = Keys(store).add("shop", ["read"])
    store.close()
    assert not any(secret.encode() in path.read_bytes() for path in store.home.rglob("*") if path.is_file())


def test_admin_may_everything_and_others_what_they_were_given(store: Store) -> None:
    keys = Keys(store)
    keys.add("all", ["admin"])
    keys.add("some", ["read"], ["u1", "u2"])
    every, some = keys.all()
    assert all(every.may(scope) for scope in ("read", "feedback", "desk", "admin"))
    assert [scope for scope in ("read", "feedback", "desk", "admin") if some.may(scope)] == ["read"]
    assert every.sees("anybody")
    assert [some.sees(user) for user in ("u1", "u2", "u3", "")] == [True, True, False, False]


def test_what_makes_no_sense_is_no_key(store: Store) -> None:
    keys = Keys(store)
    keys.add("shop", ["read"])
    with pytest.raises(DataError, match="already"):
        keys.add("shop", ["read"])
    for name, scopes, users, most in (
        ("", ["read"], None, 1),
        ("a", [], None, 1),
        ("a", ["write"], None, 1),
        ("a", ["admin"], ["u1"], 1),
        ("a", ["read"], None, 0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            keys.add(name, scopes, users, most)
    with pytest.raises(DataError, match="no key 'a'"):
        keys.remove("a")
    assert [key.name for key in keys.all()] == ["shop"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer  ", "Basic abc", "wf_secret", "Bearer \x00", "Bearer é"]
)
def test_what_is_no_key_is_refused(store: Store, header: str | None) -> None:
    with pytest.raises(Refused) as refused:
        Access(store, "master").authenticate(header)
    assert refused.value.status == 401


def test_an_empty_master_key_opens_nothing(store: Store) -> None:
    with pytest.raises(Refused):
        Access(store, "").authenticate("Bearer ")
    assert Access(store, "mäster").authenticate("bearer mäster").may("admin")


# ---- the commands


@pytest.mark.slow
def test_a_key_is_made_listed_and_removed(run_cli: RunCli, home: Path) -> None:
    made = run_cli("keys", "add", "shop", "--scope", "read", "--scope", "feedback", "--user", "u1", "--per-minute", "9")
    assert made.returncode == 0, made.stderr
    store = Store(home)
    found = Keys(store).find(made.stdout.strip())
    store.close()
    assert found is not None
    assert (found.name, found.scopes, found.users, found.per_minute) == ("shop", {"read", "feedback"}, {"u1"}, 9)
    listed = run_cli("keys", "list", "--json")
    (row,) = json.loads(listed.stdout)
    assert {"name": "shop", "scopes": ["feedback", "read"], "users": ["u1"], "per_minute": 9}.items() <= row.items()
    assert made.stdout.strip() not in listed.stdout
    assert run_cli("keys", "list").stdout == "shop\tfeedback,read\tu1\t9/min\n"
    assert run_cli("keys", "remove", "shop").returncode == 0
    assert run_cli("keys", "list").stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["add", "a"], 2, "scope"),
        (["add", "a", "--scope", "write"], 2, "write"),
        (["add", "a", "--scope", "admin", "--user", "u1"], 2, "admin"),
        (["add", "a", "--scope", "read", "--per-minute", "0"], 2, "per-minute"),
        (["remove", "a"], 1, "no key 'a'"),
    ],
)
def test_failures_of_the_commands_are_one_clear_line(
    run_cli: RunCli, arguments: list[str], code: int, text: str
) -> None:
    done = run_cli("keys", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_service_without_keys_makes_the_first_and_ends_when_told(home: Path, sign: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "whyfeed",
        "serve",
        "--port",
        "0",
        "--no-llm",
        "--no-page",
        "--home",
        str(home),
    ]
    environment = {**os.environ, "WHYFEED_EMBEDDER": EMBEDDER}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().removeprefix("whyfeed serves: ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        wait_ready(url)
        secret = next(line for line in process.stderr if "first key" in line).split()[-1]
        answer = httpx.post(f"{url}/v1/status", json={}, headers={"Authorization": f"Bearer {secret}"})
        process.send_signal(sign)
        rest = process.stderr.read()
        assert process.wait(20) == 0, rest
    assert answer.status_code == 200
    assert "Traceback" not in rest
