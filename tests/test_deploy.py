"""The files of `deploy/` are what their own tools take, and speak of commands, options and settings that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml

from tests.conftest import ROOT
from whyfeed.agent.settings import Settings
from whyfeed.ui.cli.main import app

DEPLOY = ROOT / "deploy"
COMPOSE, KUBERNETES, DOCKERFILE = (DEPLOY / name for name in ("compose.yaml", "kubernetes.yaml", "Dockerfile"))
SECRETS = {"WHYFEED_LOGIN": "reader:secret", "WHYFEED_LLM_KEY": "key"}


def compose(**variables: str) -> subprocess.CompletedProcess[str]:
    # It only asks podman for its version here.
    arguments = ["--podman-path", "/bin/echo", "-f", str(COMPOSE), "config"]
    return subprocess.run(
        [sys.executable, "-m", "podman_compose", *arguments],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **variables}, cwd=ROOT,
    )  # fmt: skip


def kubernetes(file: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).parent / "kubernetes-validate"
    return subprocess.run([tool, "--strict", file], capture_output=True, text=True)


def test_kubernetes_takes_the_manifest(tmp_path: Path) -> None:
    done = kubernetes(KUBERNETES)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(KUBERNETES.read_text().replace("containerPort: 8000", "containerPort: many"))
    done = kubernetes(broken)
    assert done.returncode != 0
    assert "'many' is not of type" in done.stdout + done.stderr


def test_compose_takes_its_file_and_asks_for_the_secrets() -> None:
    done = compose(**SECRETS)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["app"]["environment"]["WHYFEED_LLM_URL"] == "http://llm:8100/v1"
    assert all(port.startswith("127.0.0.1:") for port in services["app"]["ports"])
    done = compose(WHYFEED_LLM_KEY="key")
    assert done.returncode != 0
    assert "WHYFEED_LOGIN" in done.stderr


def commands() -> Iterator[list[str]]:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    yield services["app"]["command"][1:]
    yield ["serve-llm", "org/model", *services["llm"]["command"][1:]]
    for document in yaml.safe_load_all(KUBERNETES.read_text()):
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            own = container["args"][0] == "whyfeed"
            yield container["args"][1:] if own else ["serve-llm", *container["args"]]
    for line in re.findall(r"^CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE):
        yield yaml.safe_load(line)[1:]


@pytest.mark.parametrize("arguments", list(commands()), ids=lambda each: each[0])
def test_commands_are_whyfeeds(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[0]]
    with click.Context(command):
        command.make_parser(click.Context(command)).parse_args(arguments[1:])


def test_settings_are_whyfeeds() -> None:
    known = {f"WHYFEED_{name.upper()}" for name in Settings.model_fields}
    known |= {"WHYFEED_LOGIN", "WHYFEED_VLLM_PYTHON", "WHYFEED_MODEL"}
    for file in (COMPOSE, KUBERNETES, DOCKERFILE):
        assert set(re.findall(r"WHYFEED_[A-Z_]+", file.read_text())) <= known, file.name


def test_one_process_writes_and_two_never_do_for_a_moment() -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text()))
    (writer,) = (each for each in documents if each["metadata"]["name"] == "whyfeed" and each["kind"] == "Deployment")
    assert writer["spec"]["replicas"] == 1
    assert writer["spec"]["strategy"] == {"type": "Recreate"}
