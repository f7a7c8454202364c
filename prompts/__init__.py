"""Every prompt as a file: `NAME.LANGUAGE.jinja`, strict variables, and a version that the trace logs.

A template holds a whole conversation; a line of the form `<<<role>>>` (system, user, assistant)
starts a message. The version is the hash of the file, so that it cannot be forgotten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

__all__ = ["Prompt", "load", "names"]

_FOLDER = Path(__file__).parent
_ENVIRONMENT = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
_ROLE = re.compile(r"^<<<(system|user|assistant)>>>\n", re.MULTILINE)


class Prompt:
    """One prompt in one language. `version` names it in traces, as in `clause.en@1f3a9c2e`."""

    def __init__(self, name: str, language: str, source: str) -> None:
        self.name = name
        self.language = language
        self.version = f"{name}.{language}@{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        self.source = source
        self._template = _ENVIRONMENT.from_string(source)

    def render(self, **variables: Any) -> list[Mapping[str, str]]:
        """Messages for a chat model; ValueError names a variable that is missing."""
        # A value must not be able to open a message of its own.
        safe = {name: _ROLE.sub("", value) if isinstance(value, str) else value for name, value in variables.items()}
        try:
            text = self._template.render(**safe)
        except TemplateError as exc:
            raise ValueError(f"prompt {self.version}: {exc}") from exc
        parts = _ROLE.split(text)
        if parts[0].strip() or len(parts) < 3:
            raise ValueError(f"prompt {self.version} must start with a <<<role>>> line")
        return [
            {"role": role, "content": content.strip()} for role, content in zip(parts[1::2], parts[2::2], strict=True)
        ]


@cache
def load(name: str, language: str) -> Prompt:
    """The prompt `name` in `language` ("en" or "zh"); ValueError when there is none."""
    path = _FOLDER / f"{name}.{language}.jinja"
    if f"{name}.{language}" not in names():
        raise ValueError(f"no prompt {name!r} in {language!r}; there are {', '.join(names())}")
    return Prompt(name, language, path.read_text(encoding="utf-8"))


def names() -> list[str]:
    """All prompts, as NAME.LANGUAGE."""
    return sorted(path.name.removesuffix(".jinja") for path in _FOLDER.glob("*.jinja"))
