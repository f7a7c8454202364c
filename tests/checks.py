"""What must hold for any answer, whoever made it; shared by the tests of agent, chat and command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from whyfeed import Agent

SCHEMAS = Path(__file__).parent / "schemas"


def check_shape(document: dict[str, Any], name: str) -> None:
    """The document has exactly the contract's shape (`recommend` or `chat`)."""
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text())).validate(document)


def check_items(agent: Agent, user: str, items: list[dict[str, Any]]) -> None:
    """Every post exists and is news to the user; every claim is in its reason and its evidence is real."""
    own = {event.id: event for event in agent.events(user, 100_000)}
    acted = {event.post for event in own.values() if event.post}
    assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
    assert len({item["post"]["id"] for item in items}) == len(items)
    for item in items:
        post = agent.post(item["post"]["id"])
        assert post.id not in acted
        assert post.author != user
        reason = item["reason"]
        for claim in reason["claims"]:
            assert claim["text"] in reason["text"]
            for evidence in claim["evidence"]:
                if evidence["type"] == "event":
                    assert own[evidence["id"]].post == evidence["post"]
                elif evidence["type"] == "span":
                    assert evidence["post"] in {post.id, *acted}
                    text = agent.post(evidence["post"]).words_of(evidence["field"])
                    assert 0 <= evidence["start"] < evidence["end"] <= len(text)
                elif evidence["type"] == "signal":
                    assert evidence["id"] in item["signals"]
