"""The texts that whyfeed shows to people, by key and language. Callers quote titles and names themselves.

Each language is one file, texts/LANGUAGE.toml; en.toml explains the keys. TOML is read by the standard library and is
sent to the browser as JSON. Fluent (projectfluent.org) would add a dependency here and another in the browser, for
plural rules and variables; these texts only need a form for 1 and names in braces.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Quotation = Literal["words", "title", "interest"]

_FIRST = "en"  # the language that has every key
_BROWSER = ("page", "language", "signal", "source")  # tables that the page needs


class Texts:
    """The texts of a folder of LANGUAGE.toml files, each file read at first use.

    English is used for a language without a file and for a key that the file lacks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._languages: tuple[str, ...] = ()
        self._read: dict[str, Mapping[str, str | list[str]]] = {}

    def languages(self) -> tuple[str, ...]:
        """The codes of the languages that have a file, English first."""
        if not self._languages:
            found = sorted(path.stem for path in self._folder.glob("*.toml"))
            self._languages = tuple(sorted(found, key=lambda language: language != _FIRST))
        return self._languages

    def all(self, language: str) -> Mapping[str, str | list[str]]:
        """Every text of one file by its key, as in "chat.undone"; a list holds forms of one text."""
        if language not in self._read:
            file = self._folder / f"{language}.toml"
            try:
                tables = tomllib.loads(file.read_text(encoding="utf-8"))
            except ValueError as exc:
                raise ValueError(f"{str(file)!r} is no table of texts ({exc}); mend it") from None
            self._read[language] = {
                f"{table}.{key}": text for table, texts in tables.items() for key, text in texts.items()
            }
        return self._read[language]

    def find(self, key: str, language: str) -> str | list[str] | None:
        """A text as written in the file; None for an unknown key."""
        if language not in self.languages():
            language = language.replace("_", "-").split("-")[0]  # zh-CN is zh
        if language in self.languages() and (text := self.all(language).get(key)) is not None:
            return text
        return self.all(_FIRST).get(key)

    def say(self, key: str, language: str, **values: Any) -> str:
        """The text with its placeholders filled. Raises KeyError for an unknown key."""
        text = self.find(key, language)
        if not isinstance(text, str):
            raise KeyError(key)
        return text.format(**values)

    def forms(self, key: str, language: str) -> tuple[str, ...]:
        """The variants of a text, with placeholders unfilled; () for an unknown key."""
        text = self.find(key, language)
        return tuple(text) if isinstance(text, list) else ()

    def page(self, language: str) -> dict[str, str]:
        """The page's texts in that language: the keys of [page] without "page."."""
        found = {}
        for key, text in {**self.all(_FIRST), **self.all(language)}.items():
            table, name = key.split(".", 1)
            if table in _BROWSER and isinstance(text, str):
                found[name if table == "page" else key] = text
        return found


_TEXTS = Texts(Path(__file__).with_name("texts"))


def say(key: str, language: str, **values: Any) -> str:
    """The text in that language, with its placeholders filled. Raises KeyError for an unknown key."""
    return _TEXTS.say(key, language, **values)


def forms(key: str, language: str) -> tuple[str, ...]:
    """The variants of a text, with placeholders unfilled; () for an unknown key."""
    return _TEXTS.forms(key, language)


def texts(language: str) -> dict[str, str]:
    """The page's texts in that language, by key."""
    return _TEXTS.page(language)


def languages() -> tuple[str, ...]:
    """The languages that whyfeed speaks, English first."""
    return _TEXTS.languages()


def signal_word(name: str, language: str) -> str:
    """A signal in plain words."""
    return _word("signal", name, language) or name


def source_word(name: str, language: str) -> str:
    """A source in plain words."""
    return _word("source", name, language) or name


def noun(kind: str, language: str) -> str:
    """The noun for a post of that kind, as in "this video"."""
    return _word("noun", kind, language) or say("noun.post", language)


def listed(words: list[str], language: str) -> str:
    """Words joined to a list: a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return say("join.comma", language).join(words[:-1]) + say("join.and", language) + words[-1]


def share_of(name: str, share: float, language: str) -> str:
    """A name with its share in percent; `share` is between 0 and 1."""
    return say("join.share", language, name=name, share=f"{share:.0%}")


def quoted(words: str, language: str, what: Quotation = "words") -> str:
    """Words in the quotation marks of that language; quotation marks inside are replaced by the inner form."""
    return say(f"quote.{what}", language, words=nested(words, language, what))


def nested(words: str, language: str, what: Quotation = "words") -> str:
    """Words with their quotation marks in the form for use inside a quotation."""
    pairs = say(f"quote.{what}.nested", language).split()
    return words.translate(str.maketrans("".join(pair[0] for pair in pairs), "".join(pair[1] for pair in pairs)))


def _word(table: str, name: str, language: str) -> str:
    text = _TEXTS.find(f"{table}.{name}", language)
    return text if isinstance(text, str) else ""
