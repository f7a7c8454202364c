"""What whyfeed says: the same texts in every language, all of them used, and a new language in one file."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest

from tests.conftest import ROOT
from whyfeed.agent.desk.actions import ACTIONS
from whyfeed.agent.phrases import Quotation, Texts, languages, listed, quoted, say, share_of, signal_word
from whyfeed.agent.request import Horizon
from whyfeed.retrieval.community.signals import SIGNALS

FOLDER = ROOT / "agent" / "texts"
SHIPPED = Texts(FOLDER)
ENGLISH = SHIPPED.all("en")
TABLES = {key.split(".")[0] for key in ENGLISH}
PAGE = ROOT / "ui" / "page" / "static"

# Keys that the code puts together: how they begin, and how they may end.
ENDS: Mapping[str, tuple[str, ...]] = {
    "chat.": ("smalltalk", "out_of_scope", "thanks"),
    "chat.rule.": ("include", "exclude"),
    "chat.horizon.": tuple(set(get_args(Horizon)) - {"always"}),
    "why_not.": ("kind", "own", "hidden", "seen", "twin", "rule", "shown", "unrelated", "duplicate", "author"),
    "change.": ("undo", "rule", "like", "none"),
    "signal.": SIGNALS,
    "source.": (
        "interest", "cooccurrence", "next", "text", "people", "fresh", "popular", "explore", "query", "include",
    ),
    "noun.": ("post", "article", "video", "product", "artist", "person", "group", "ad"),
    "quote.": tuple(f"{what}{end}" for what in get_args(Quotation) for end in ("", ".nested")),
    "reason.signal.": ("include", "popular", "fresh", "community"),
    "act.": (
        "ask", "post", "answer", "comment", "reply", "save", "like", "share", "buy", "listen", "read", "open", "click",
        "view", "rate",
    ),
    "desk.why.": ("refund", "replace", "person", "legal"),
    "missing.": ("chip", "link", "number", "date", "name", "price", "time"),
    "page.rule.": ("include", "exclude"),
    "page.stage.": ("start", "understand", "retrieve", "rank", "explain", "stopping"),
    "page.card.source.": ("llm", "extract", "template"),
    "page.did.": (
        "ask", "answer", "comment", "reply", "like", "dislike", "save", "share", "open", "view", "read", "click",
        "hide", "buy", "listen", "rate", "include", "exclude", "interest", "rule-on", "rule-off",
    ),
    "page.model.": ("writer", "ranker", "embedder"),
    "page.state.": ("ready", "downloading", "loading", "missing", "off", "failed", "fallback"),
    "page.banner.": ("downloading", "loading", "missing", "failed", "fallback"),
    "page.desk.": ("customer", "agent", "facts", "query"),
    "page.desk.language.": ("en", "zh"),
    "page.desk.other.": ("en", "zh", "en.say", "zh.say"),
    "page.desk.source.": ("saved", "case", "draft", "question", "article"),
    "page.desk.sure.": ("very", "likely", "guess"),
    "page.desk.draft.": ("dropped", "refused"),
    "page.desk.sent.": ("same", "edit", "own"),
    "page.desk.from.": ("case", "reply", "article", "knowledge", "conversation"),
    "page.desk.act.": (*ACTIONS, "preparing", "approve", "edit", "reject"),
    "page.desk.field.": tuple({each.name for action in ACTIONS.values() for each in action.arguments}),
    "page.chip.": ("email", "phone", "card", "identity", "account", "secret", "address", "name", "order"),
}  # fmt: skip


def names_in(text: str | list[str]) -> set[str]:
    """The names in braces, those of every form together; a capital in one only begins a sentence."""
    return {
        name.lower() for form in ([text] if isinstance(text, str) else text) for name in re.findall(r"{(\w+)}", form)
    }


def keys_in_python() -> Iterator[str]:
    """Keys that are written out, and the beginnings of those that are put together."""
    for folder in ("agent", "ui"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if "whyfeed.agent.phrases" in source or path.name == "phrases.py":
                for node in ast.walk(ast.parse(source)):
                    text = node.value if isinstance(node, ast.Constant) else None
                    if not isinstance(text, str) or text.endswith((".js", ".css", ".html")):
                        continue
                    if re.fullmatch(r"\w+\.[\w.-]*", text) and text.split(".")[0] in TABLES:
                        yield text


def arguments_in(script: str) -> Iterator[str]:
    """The first argument of every call of t, which some scripts name say."""
    for call in re.finditer(r"\b(?:t|say)\(", script):
        depth, at = 0, call.end()
        while depth >= 0 and not (depth == 0 and script[at] == ","):
            depth += {"(": 1, ")": -1}.get(script[at], 0)
            at += 1
        yield script[call.end() : at].removesuffix(")")


def keys_in_page() -> Iterator[str]:
    """As `keys_in_python`, of the template and the scripts."""
    for path in PAGE.glob("*.js"):
        script = path.read_text(encoding="utf-8")
        yield from (f"{kind}." for kind in re.findall(r'\bnamed\("(\w+)"', script))
        yield from re.findall(r'\btexts\["([\w.]+)"\]', script)
        for argument in arguments_in(script):
            for before, key in re.findall(r'(=== |\+ |)"([\w.-]+)"', argument):
                if not before:
                    yield key
    html = (PAGE / "page.html").read_text(encoding="utf-8")
    yield from re.findall(r'data-t(?:-\w+)?="([^"]+)"', html)
    for key in re.findall(r'data-wish="([^"]+)"', html):
        yield from (key, f"{key}.say")


def of_page(key: str) -> str:
    """The key under which the file has what the page calls `key`."""
    return key if key.split(".")[0] in ("signal", "source", "language") and key != "language" else f"page.{key}"


@pytest.mark.parametrize("language", languages())
def test_every_language_has_the_same_keys_and_the_same_names_in_braces(language: str) -> None:
    own = SHIPPED.all(language)
    assert own.keys() == ENGLISH.keys()
    for key, text in own.items():
        assert type(text) is type(ENGLISH[key]), key
        assert text or key.endswith(".nested") or key == "join.sentence", key
        for form in text if isinstance(text, list) else [text]:
            assert names_in(form) == names_in(ENGLISH[key]), key
            assert re.fullmatch(r"[^{}]*(?:{[A-Za-z]\w*}[^{}]*)*", form), key


@pytest.mark.parametrize("language", languages())
def test_a_first_form_ends_with_the_clause_and_can_be_cut_before_it(language: str) -> None:
    keys = [key for key in ENGLISH if re.match(r"reason\.(?:query|interest|nothing|signal\.)", key)]
    assert len(keys) > 5
    for key in keys:
        assert re.search(r"[^\w\s{}]\s?\{clause\}[^\w\s]$", SHIPPED.forms(key, language)[0]), key


def test_every_key_of_the_code_is_there_and_every_text_is_used() -> None:
    found = {*keys_in_python(), *map(of_page, keys_in_page())}
    begun = {key for key in found if key.endswith(".")}
    assert begun <= ENDS.keys(), "keys that the code puts together must be named in ENDS"
    used = (found - begun) | {begin + end for begin, ends in ENDS.items() for end in ends}
    print(f"{len(used)} keys, {len(begun)} of them begun")
    assert used - ENGLISH.keys() == set()
    assert ENGLISH.keys() - used == set()
    code = "".join(path.read_text(encoding="utf-8") for path in [*PAGE.glob("*.js"), *ROOT.glob("agent/**/*.py")])
    for begin in ENDS:
        short = begin.removeprefix("page.")
        assert re.search(rf'"{re.escape(short)}|"{re.escape(short[:-1])}"', code), f"nothing says {begin}"


def test_a_third_language_is_one_more_file(tmp_path: Path) -> None:
    (tmp_path / "en.toml").write_text((FOLDER / "en.toml").read_text(encoding="utf-8"), encoding="utf-8")
    lines: dict[str, list[str]] = {}
    for key, text in ENGLISH.items():
        table, name = key.split(".", 1)
        new = [f"<{form}>" for form in text[:1]] if isinstance(text, list) else f"<{text}>"
        lines.setdefault(table, []).append(f"{json.dumps(name)} = {json.dumps(new, ensure_ascii=False)}")
    written = "\n".join(f"[{table}]\n" + "\n".join(each) for table, each in lines.items())
    (tmp_path / "eo.toml").write_text(written.replace('"undo.nothing"', '"undo.nothing-yet"'), encoding="utf-8")
    toy = Texts(tmp_path)
    assert toy.languages() == ("en", "eo")
    for key, text in ENGLISH.items():
        if key == "chat.undo.nothing":
            assert toy.say(key, "eo") == text  # a key that a language lacks is said in English
        elif isinstance(text, list):
            assert toy.forms(key, "eo") == (f"<{text[0]}>",)
        else:
            said = toy.say(key, "eo-001", **{name: f"[{name}]" for name in names_in(text)})
            assert said == "<" + re.sub(r"{(\w+)}", r"[\1]", text) + ">"
    page = toy.page("eo")
    assert page.keys() == toy.page("en").keys()
    assert page["desk.send"] == "<Send>"
    assert page["signal.interest"] == "<your interests>"
    assert toy.say("chat.undone", "xx", what="it") == "Undone: it."
    with pytest.raises(KeyError, match="nosuch"):
        toy.say("chat.nosuch", "eo")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "en.toml").write_text("[chat\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"en\.toml.*mend it"):
        Texts(tmp_path).say("chat.undone", "en", what="it")


def test_words_are_joined_and_quoted_as_the_language_does() -> None:
    assert listed([], "en") == ""
    assert [listed(words, "en") for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [listed(words, "zh-CN") for words in (["a"], ["a", "b", "c"])] == ["a", "a、b、c"]
    assert quoted('a "b" “c”', "en", "title") == "“a 'b' ‘c’”"
    assert quoted('a "b"《c》', "zh", "title") == '《a "b"〈c〉》'
    assert quoted('"b"', "en", "interest") == '"b"'
    assert share_of("beer", 0.4, "en") == "beer (40%)"
    assert signal_word("no-such", "zh") == "no-such"
    assert say("chat.undone", "zh_Hans", what="x") == say("chat.undone", "zh", what="x")


def test_help_reads_no_texts() -> None:
    code = "import sys\nfrom whyfeed.ui.cli.main import main\ntry:\n    main()\nfinally:\n    print(*sys.modules)"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")})
    assert "recommend" in done.stdout
    assert "whyfeed.ui.cli.main" in done.stdout
    assert "whyfeed.agent.phrases" not in done.stdout
