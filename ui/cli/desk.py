"""The command `reply`: reads conversations and prints reply suggestions, one per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whyfeed.retrieval.errors import WhyfeedError
from whyfeed.retrieval.lines import LONGEST_LINE, lines_of, parse_json, read_lines
from whyfeed.ui.cli.terminal import Home, Json, NoLlm, bars, open_agent, print_json, tell, tell_text

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.desk.suggestion import Suggestions

_EMPTY: Mapping[str, Any] = {"suggestions": [], "handover": None, "posts": []}


def reply(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File with one conversation per line; default: standard input."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10, help="Largest number of suggestions.")] = 3,
    draft: Annotated[str, typer.Option(help="The operator's draft so far.")] = "",
    wish: Annotated[str, typer.Option(help="What the operator asks for: “shorter”, “in Chinese”, “offer …”.")] = "",
    unmask: Annotated[bool, typer.Option("--unmask", help="Print personal data instead of its placeholders.")] = False,
    home: Home = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
) -> None:
    """Suggest replies for conversations, or for single messages of a customer, one per line of input.

    Example: whyfeed reply waiting.jsonl -k 3 --json
    """
    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.desk.build(progress)
        failed = _answer_lines(agent, file, k, draft=draft, wish=wish, unmask=unmask, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _answer_lines(
    agent: Agent, file: Path | None, k: int, *, draft: str, wish: str, unmask: bool, as_json: bool
) -> int:
    """Answer every line; an invalid line gets an answer with the error. Returns the number of invalid lines."""
    from whyfeed.retrieval.privacy.vault import Vault

    failed = 0
    for number, text in enumerate(_documents(file), 1):
        vault = Vault()
        try:
            *_, found = agent.desk.suggest(_conversation(text, number), k, draft=draft, wanted=wish, vault=vault)
        except (WhyfeedError, ValueError, TypeError, OverflowError) as exc:
            failed += 1
            tell("whyfeed: conversation {}: {}", number, exc, err=True)
            if as_json:
                print_json({**_EMPTY, "error": f"conversation {number}: {exc}"})
            continue
        document = found.to_json()
        if unmask:
            document = _with_values(document, vault)
        print_json(document) if as_json else _show(found, vault if unmask else Vault())
    return failed


def _documents(file: Path | None) -> Iterator[str | None]:
    """The lines that are not empty, None for one that is too long; a JSON document over several lines counts as one."""
    lines = lines_of(sys.stdin.buffer) if file is None else read_lines(file)
    first = True
    for line in lines:
        text = None if line is None else line.decode("utf-8-sig", errors="replace").strip()
        if first and text is not None and text.startswith(("{", "[")) and not _is_json(text):
            yield from _whole(text, lines)
            return
        if text != "":
            first = False
            yield text


def _whole(text: str, lines: Iterator[bytes | None]) -> Iterator[str | None]:
    """The text and the lines after it, as one document if that is JSON, else line by line."""
    kept: list[str | None] = [text]
    size = len(text)
    for line in lines:
        kept.append(None if line is None else line.decode("utf-8", errors="replace"))
        size += LONGEST_LINE if line is None else len(line)
        if size > LONGEST_LINE:
            break
    else:
        if _is_json(document := "\n".join(each.rstrip("\r\n") for each in kept if each is not None)):
            yield document
            return
    rest = (None if line is None else line.decode("utf-8", errors="replace") for line in lines)
    stripped = (each if each is None else each.strip() for each in chain(kept, rest))
    yield from (each for each in stripped if each != "")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _conversation(text: str | None, number: int) -> Mapping[str, Any]:
    """A conversation from a row of conversations.jsonl, a test row, a list of turns, or a customer's message."""
    if text is None:
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    if not text.startswith(("{", "[")):
        return {"id": f"line {number}", "turns": [{"role": "customer", "text": text}]}
    try:
        document = parse_json(text)
    except ValueError as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    if isinstance(document, dict) and "turns" not in document and "conversation" in document:
        document = document["conversation"]
    if isinstance(document, list):
        document = {"turns": document}
    if not isinstance(document, dict):
        raise ValueError("neither an object with turns nor a list of them")
    return {"id": f"line {number}", **document}


def _with_values(document: Any, vault: Any) -> Any:
    if isinstance(document, str):
        return vault.unmask(document)
    if isinstance(document, list):
        return [_with_values(each, vault) for each in document]
    if isinstance(document, dict):
        return {key: _with_values(each, vault) for key, each in document.items()}
    return document


def _show(found: Suggestions, vault: Any) -> None:
    for place, each in enumerate(found.suggestions, 1):
        tell("")
        tell_text(vault.unmask(each.text), f"{place}. ")
        cited = ", ".join(f"{citation.type} {citation.id}" for citation in each.citations)
        tell("   {}{}", each.source, ": " + cited if cited else "")
        if each.missing:
            tell("   missing: {}", ", ".join(each.missing))
    if found.handover is not None:
        tell("\nhand over: {}", found.handover.reason)
        tell_text(vault.unmask(found.handover.summary))
    for item in found.posts:
        tell("\nto send along: {}  [{}]", item.post.label, item.post.id)
