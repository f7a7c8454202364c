"""Check the reasons in a home's lists: whether their evidence exists, and whether it belongs to the user.

    python -m benchmarks.reasons [--users 50] [--k 5] [--language en] [--no-llm] [--show 20]

For users with at least three events: validates the JSON schema, that no list shows a post that its user has acted on,
that the evidence of every claim exists and belongs to this user or this post, and that a reason names at least one of
the user's own events. Prints how many reasons came from the LLM, an extract or a template, how many were ready with the
list, and a sample to read.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

from whyfeed import Agent

SCHEMA = Path(__file__).parent.parent / "tests" / "schemas" / "recommend.json"


def main() -> None:
    """Open the home and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument("--no-llm", action="store_true")
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings: dict[str, Any] = {"no_llm": True} if args.no_llm else {}
    with Agent.open(args.home, **settings) as agent:
        sys.exit(report(agent, args))


def report(agent: Agent, args: argparse.Namespace) -> int:
    """Print the report; returns 1 when there are faults."""
    rng = random.Random(args.seed)
    members = [member.id for member in agent.members(limit=100_000) if member.events >= 3]
    users = rng.sample(members, min(args.users, len(members)))
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    sources: Counter[str] = Counter()
    faults: list[str] = []
    ready = personal = reasons = 0
    shown: list[str] = []
    start = time.perf_counter()
    for user in users:
        document = agent.recommend(user, args.k, language=args.language).to_json()
        faults += [f"{user}: {error.message[:200]}" for error in schema.iter_errors(document)]
        own = {event.id: event for event in agent.events(user, 100_000)}
        acted = {event.post for event in own.values()}
        items = document["items"]
        if len(items) != args.k:
            faults.append(f"{user}: {len(items)} posts")
        explain = next(stage for stage in document["trace"]["stages"] if stage["name"] == "explain")
        ready += int(explain["note"].split()[0])
        for item in items:
            reasons += 1
            sources[item["reason"]["source"]] += 1
            faults += [f"{user} {item['post']['id']}: {fault}" for fault in check(agent, item, own, acted)]
            named = any(e["type"] == "event" for claim in item["reason"]["claims"] for e in claim["evidence"])
            personal += named
            if not named:
                faults.append(f"{user} {item['post']['id']}: names nothing of the user's own history")
            shown.append(f"[{item['reason']['source']}] {item['post']['title']}\n    {item['reason']['text']}")
    seconds = time.perf_counter() - start
    print(f"{len(users)} users, {reasons} reasons in {seconds:.0f} s ({args.language})")
    print(
        "from: " + ", ".join(f"{name} {count} ({count / max(reasons, 1):.0%})" for name, count in sources.most_common())
    )
    print(f"ready with the list: {ready}; naming the user's own history: {personal}")
    print(f"faults: {len(faults)}")
    for fault in faults[:20]:
        print(f"  {fault}")
    for text in rng.sample(shown, min(args.show, len(shown))):
        print(f"- {text}")
    return int(bool(faults))


def check(agent: Agent, item: dict[str, Any], own: dict[str, Any], acted: set[str]) -> list[str]:
    """The faults of one item."""
    id = item["post"]["id"]
    post = agent.post(id)
    faults = [f"shown although the user acted on {id}"] if id in acted else []
    reason = item["reason"]
    for claim in reason["claims"]:
        if claim["text"] not in reason["text"]:
            faults.append(f"claim {claim['text']!r} is not in the reason")
        for evidence in claim["evidence"]:
            if evidence["type"] == "event" and evidence["id"] not in own:
                faults.append(f"event {evidence['id']} is not the user's")
            elif evidence["type"] == "event" and own[evidence["id"]].post != evidence["post"]:
                faults.append(f"event {evidence['id']} is about another post")
            elif evidence["type"] == "span":
                text = agent.post(evidence["post"]).words_of(evidence["field"])
                if evidence["post"] not in (post.id, *acted):
                    faults.append(f"span of a post {evidence['post']} that is neither this one nor the user's")
                elif not 0 <= evidence["start"] < evidence["end"] <= len(text):
                    faults.append(f"span {evidence['start']}-{evidence['end']} is outside of {evidence['post']}")
            elif evidence["type"] == "signal" and evidence["id"] not in item["signals"]:
                faults.append(f"signal {evidence['id']} is not in the item")
    return faults


if __name__ == "__main__":
    main()
