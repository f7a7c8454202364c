"""Steering rules: what a user wants more or less of, stored as events of the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence

from whyfeed.agent.request import Horizon
from whyfeed.retrieval.community.reader import SteeringRule

_DAY = 86_400.0
_SECONDS = {"day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY}


def rule_text(topic: str, horizon: Horizon, conversation: str) -> str:
    """The text of an include or exclude event; `conversation` limits the rule to that one, "" to none."""
    return json.dumps({"topic": topic, "horizon": horizon, "conversation": conversation}, ensure_ascii=False)


def horizon_end(horizon: Horizon, now: float) -> float | None:
    """The end of a rule of that horizon, in Unix seconds; None when it has no end in time."""
    return now + _SECONDS[horizon] if horizon in _SECONDS else None


def in_force(rules: Sequence[SteeringRule], conversation: str, now: float | None) -> tuple[SteeringRule, ...]:
    """The rules that apply: switched on, not expired, and not limited to another conversation."""
    return tuple(
        rule
        for rule in rules
        if rule.active
        and (rule.until is None or now is None or now < rule.until)
        and (rule.horizon != "session" or rule.conversation == conversation)
    )
