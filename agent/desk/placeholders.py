"""Fills the placeholders of saved replies from what was looked up and said; uncertain ones stay open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from whyfeed.agent.desk.lookups import key_words, looked_up
from whyfeed.agent.desk.specifics import Specific, Taken, specifics
from whyfeed.agent.desk.suggestion import Citation
from whyfeed.agent.phrases import say
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskConversation, DeskTurn, SavedReply
from whyfeed.retrieval.words import HAN, STOPWORDS, words

SURE = 0.85  # a key is used that filled a placeholder in at least this share of the cases where it could have
SEEN = 3  # cases in which a key must have filled a placeholder
FORMS = 5  # a form in which a template was sent this often replaces the template
SPECIFIC = 3  # a word said in fewer conversations than this is specific to one case
MOST_MISSING = 3
_WINDOW = 50  # characters before a value that name it
_KINDS = {"money": "price", "am": "time", "pm": "time", "clock": "time"}


@dataclass(frozen=True, slots=True)
class Filled:
    """A reply with its placeholders filled; uncertain ones stay as "{hotel name}"."""

    text: str
    missing: tuple[str, ...] = ()
    citations: tuple[Citation, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Value:
    """The value of a look-up's key, as plain text."""

    key: str
    text: str
    place: int  # of the turn


class Placeholders:
    """How placeholders were filled in the past. `keys`: placeholder -> key -> (times possible, times so)."""

    def __init__(
        self,
        keys: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        surfaces: Mapping[str, str] | None = None,
        forms: Mapping[str, str] | None = None,
    ) -> None:
        self._keys = {name: {key: tuple(count) for key, count in known.items()} for name, known in (keys or {}).items()}
        self._surfaces = dict(surfaces or {})  # "key\tvalue" -> the words operators used for it
        self._forms = dict(forms or {})  # id of a saved reply -> the form in which it is mostly sent

    @classmethod
    def learn(cls, conversations: Iterable[DeskConversation], replies: Mapping[str, SavedReply]) -> Placeholders:
        """Align what was sent with the templates, and count which key of the look-ups gave each value.

        Two passes over the conversations' replies: the first finds forms that differ from the template in its
        fixed words ("at {time}" for "at {time} o'clock"), the second counts keys and verbal forms.
        """
        templates = {id: reply for id, reply in replies.items() if PLACEHOLDER.search(reply.text)}
        sent = [
            (turn.reply, turn.text, _values(conversation.turns[:place]))
            for conversation in conversations
            for place, turn in enumerate(conversation.turns)
            if turn.role == "agent" and turn.text and turn.reply in templates
        ]
        forms = _forms(sent, templates)
        keys: dict[str, dict[str, list[int]]] = {}
        surfaces: dict[str, Counter[str]] = {}
        for id, text, values in sent:
            template = forms.get(id, templates[id].text)
            match = _pattern(template).fullmatch(_spaced(text))
            if match is None or not values:
                continue
            for name, surface in zip(PLACEHOLDER.findall(template), match.groups(), strict=True):
                known = keys.setdefault(f"{id}\t{name}", {})
                for value in values.values():
                    said = _means(value, surface)
                    count = known.setdefault(value.key, [0, 0])
                    count[0] += 1
                    count[1] += said
                    if said:
                        surfaces.setdefault(f"{value.key}\t{value.text}", Counter())[surface] += 1
        return cls(
            {
                name: {
                    key: (tries, hits) for key, (tries, hits) in known.items() if hits >= SEEN and hits >= SURE * tries
                }
                for name, known in keys.items()
            },
            {
                told: surface
                for told, said in surfaces.items()
                if (surface := said.most_common(1)[0][0]) != told.split("\t", 1)[1]
                and said[surface] >= max(2, 0.6 * said.total())
            },
            forms,
        )

    def fill(self, reply: SavedReply | str, turns: Sequence[DeskTurn]) -> Filled:
        """The reply with every placeholder filled from the newest look-up that has it, or left open."""
        id, template = ("", reply) if isinstance(reply, str) else (reply.id, reply.text)
        template = self._forms.get(id, template)
        if not PLACEHOLDER.search(template):
            return Filled(template)
        available = _values(turns)
        values: dict[str, str] = {}
        missing: list[str] = []
        citations: list[Citation] = []

        def put(match: re.Match[str]) -> str:
            name = match[1].strip()
            value = self._choose(id, match[1], available)
            # How a yes or no is worded is known from past conversations only.
            if value is None or (
                value.text in ("True", "False") and f"{value.key}\t{value.text}" not in self._surfaces
            ):
                missing.append(key_words(name))
                return "{" + key_words(name) + "}"
            said = self._surfaces.get(f"{value.key}\t{value.text}") or value.text
            values[name] = said
            citations.append(_cited(turns, value.place, f"{key_words(value.key.split('#')[0])}: {value.text}"))
            return said

        text = PLACEHOLDER.sub(put, template)
        # "{instructions}." gets two full stops where the instructions end with one.
        text = re.sub(r"(?<=[^.][.!?])\.(?=\s|$)", "", text)
        return Filled(text, tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(citations)), values)

    def _choose(self, id: str, name: str, available: Mapping[str, _Value]) -> _Value | None:
        known = self._keys.get(f"{id}\t{name}") or self._elsewhere(name)
        best = max(
            (key for key in known if key in available),
            key=lambda key: (available[key].place, known[key][1] / known[key][0], known[key][1]),
            default=None,
        )
        if best is not None:
            return available[best]
        if known:
            return None
        same = [value for value in available.values() if _squeezed(value.key.removeprefix("?")) == _squeezed(name)]
        return max(same, key=lambda value: (not value.key.startswith("?"), value.place), default=None)

    def _elsewhere(self, name: str) -> dict[str, tuple[int, ...]]:
        """Counts of keys for placeholders of that name in other saved replies."""
        known: dict[str, tuple[int, ...]] = {}
        for place, keys in self._keys.items():
            if place.split("\t", 1)[1] == name:
                for key, (tries, hits) in keys.items():
                    before = known.get(key, (0, 0))
                    known[key] = (before[0] + tries, before[1] + hits)
        return known


def templated(text: str, turns: Sequence[DeskTurn], common: Callable[[str], int]) -> Filled | None:
    """A past reply for reuse here: what was specific to its case becomes a placeholder, or this case's value.

    `common` counts the conversations in which operators have said a word. None when too much would be missing.
    """
    holds = set(looked_up(turns))
    spoken = [(place, _Said(turn)) for place, turn in enumerate(turns) if turn.role != "knowledge" or place in holds]
    chinese = bool(HAN.search(text))
    missing: list[str] = []
    citations: list[Citation] = []
    values: dict[str, str] = {}
    pieces: list[str] = []
    end = 0
    frame = 0  # words that are kept
    for specific in _of_the_case(text, common):
        if specific.start < end:
            continue
        surface = text[specific.start : specific.end]
        source = next((place for place, said in reversed(spoken) if said.has(specific)), None)
        pieces.append(text[end : specific.start])
        frame += len(words(pieces[-1]))
        end = specific.end
        if source is not None:
            citations.append(_cited(turns, source, surface))
            values[surface] = surface
            frame += 1
            pieces.append(surface)
            continue
        name, kept = _named(text, specific, chinese)
        missing.append(name)
        if len(missing) > MOST_MISSING and not chinese:  # of Chinese ones several may be one thing
            return None
        pieces.append("{" + name + "}" + kept)
    result = "".join([*pieces, text[end:]])
    frame += len(words(text[end:]))
    if chinese:
        result = _collapsed(result)
        missing = [match[1] for match in PLACEHOLDER.finditer(result)]
    if len(missing) > MOST_MISSING or len(missing) > frame:
        return None
    return Filled(result, tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(citations)), values)


# ---- inside ----


def _cited(turns: Sequence[DeskTurn], place: int, quote: str) -> Citation:
    return Citation("knowledge" if turns[place].role == "knowledge" else "conversation", str(place), quote)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _squeezed(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _pattern(template: str) -> re.Pattern[str]:
    """Matches texts filled from the template; a final full stop may be missing or doubled."""
    parts = PLACEHOLDER.split(_spaced(template))
    rule = "(.+?)".join(re.escape(part) for part in parts[::2])
    return re.compile(rule.removesuffix(r"\.") + r"\.{0,2}", re.IGNORECASE)


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else _spaced(str(value))


def _alike(text: str) -> str:
    return re.sub(r",(?=\d{3}(?!\d))", "", _spaced(text).casefold().strip(" .\"'“”‘’"))


def _means(value: _Value, surface: str) -> bool:
    """Does a text state the value: literally, with words around it, or as a sentence for a yes or no?"""
    said, held = _alike(surface), _alike(value.text)
    if not held:
        return False
    if value.text in ("True", "False"):
        subject = key_words(value.key).removeprefix("has ").removeprefix("is ").split()
        denied = bool(re.search(r"\b(?:not?|without)\b|n['’]t\b|不|没|无", said))
        return all(word in said for word in subject) and denied == (value.text == "False")
    if said == held:
        return True
    if ", " in held:
        return all(part in said for part in held.split(", ")) and len(said) < 3 * len(held)
    # "an Economy", and not a number within a sentence
    return not held.isdigit() and len(held) > 3 and bool(re.search(rf"(?<!\w){re.escape(held)}(?!\w)", said))


def _values(turns: Sequence[DeskTurn]) -> dict[str, _Value]:
    """The latest values by key: of items, of steps in lists ("key#0" is the next one), and of queries ("?key")."""
    found: dict[str, _Value] = {}
    for place, turn in enumerate(turns):
        if turn.role == "knowledge" and turn.item:
            for key, value in turn.item.items():
                if value is None or isinstance(value, Mapping) or value == []:
                    continue
                if isinstance(value, list | tuple):
                    found[key] = _Value(key, ", ".join(_plain(part) for part in value), place)
                else:
                    found[key] = _Value(key, _plain(value), place)
            found = {key: value for key, value in found.items() if "#" not in key}
            found |= _steps(turn.item, place, turns)
        elif turn.role == "agent" and turn.query:
            for key, value in turn.query.items():
                held = re.sub(r"^[\w.]+\((.*)\)$", r"\1", _plain(value)).strip("\"' ")
                found[f"?{key}"] = _Value(f"?{key}", held, place)
    return found


def _steps(item: Mapping[str, Any], place: int, turns: Sequence[DeskTurn]) -> dict[str, _Value]:
    """For lists that are told step by step: the step told last ("key#-1") and the next one ("key#0")."""
    lists = {key: [_plain(part) for part in value] for key, value in item.items() if isinstance(value, list | tuple)}
    last: dict[int, int] = {}  # by length of the list: lists of equal length are taken to hold the same steps
    for turn in turns[place:]:
        if turn.role == "agent" and turn.text:
            said = _alike(turn.text)
            for parts in lists.values():
                for index, part in enumerate(parts):
                    if part and _alike(part) in said:
                        last[len(parts)] = index
    found = {}
    for key, parts in lists.items():
        told = last.get(len(parts), -1)
        for name, index in ((f"{key}#-1", told), (f"{key}#0", told + 1)):
            if 0 <= index < len(parts):
                found[name] = _Value(name, parts[index], place)
    return found


def _forms(
    sent: Iterable[tuple[str, str, Mapping[str, _Value]]], templates: Mapping[str, SavedReply]
) -> dict[str, str]:
    """By saved reply, the form in which it is mostly sent, where that differs from its template."""
    shapes: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for id, text, values in sent:
        template = templates[id].text
        parts = PLACEHOLDER.split(template)
        totals[id] += 1
        spaced = _spaced(text)
        # A sent form may lack the word beside a placeholder; the rest of the fixed text must match.
        if _pattern(template).fullmatch(spaced) and not _wordy(template, spaced, values):
            continue
        for short in _shortened(parts):
            match = _pattern(short).fullmatch(spaced)
            held = {_alike(value.text) for value in values.values()}
            if match and all(_alike(group) in held for group in match.groups()):
                shapes.setdefault(id, Counter())[short] += 1
                break
    found = {}
    for id, counts in shapes.items():
        shape, count = counts.most_common(1)[0]
        if count >= FORMS and count * 2 > totals[id]:
            found[id] = shape
    return found


def _wordy(template: str, text: str, values: Mapping[str, _Value]) -> bool:
    """Does the template fit only if its placeholders hold more words than any known value?"""
    match = _pattern(template).fullmatch(text)
    return match is not None and not any(_means(value, group) for group in match.groups() for value in values.values())


def _shortened(parts: Sequence[str]) -> Iterator[str]:
    """The template with the word right after one of its placeholders left out: "{time} o'clock" as "{time}"."""
    for place in range(2, len(parts), 2):
        if match := re.match(r" [\w'’]+(?=[\s.,!?]|$)", parts[place]):
            changed = [*parts[:place], parts[place][match.end() :], *parts[place + 1 :]]
            yield "".join(part if index % 2 == 0 else "{" + part + "}" for index, part in enumerate(changed))


class _Said:
    """What one turn says, for many questions whether a value is in it."""

    def __init__(self, turn: DeskTurn) -> None:
        held = {**(turn.item or {}), **(turn.query or {})}
        facts = [
            _plain(part) for value in held.values() for part in (value if isinstance(value, list | tuple) else [value])
        ]
        self._text = "\n".join([turn.text, *facts])
        self._known: dict[str, bool] = {}

    @cached_property
    def _folded(self) -> str:
        return _spaced(self._text).casefold()

    @cached_property
    def _numbers(self) -> Mapping[str, set[str]]:
        """By value of a number or date, the units with which it is said."""
        found: dict[str, set[str]] = {}
        for specific in specifics(self._text, names=False):
            found.setdefault(specific.value, set()).add(specific.unit)
        return found

    def has(self, specific: Specific) -> bool:
        """Is it said? A number without a unit is the same as one with any."""
        if specific.kind in ("number", "date"):
            units = self._numbers.get(specific.value, set())
            return bool(units) and (not specific.unit or bool(units & {specific.unit, ""}))
        if specific.value not in self._known:
            rule = re.escape(specific.value)
            rule = rule if HAN.search(rule) else rf"(?<!\w){rule}(?!\w)"
            self._known[specific.value] = bool(re.search(rule, self._folded))
        return self._known[specific.value]


def _collapsed(text: str) -> str:
    """Merge placeholders that name one thing in Chinese: "北京{名称}路{数字}号{数字}楼" becomes "北京{名称}"."""
    text = re.sub(r"(\{[^{}]+\})(?:[^{}，。！？、；：,.!?;:\s]{0,6}\{[^{}]+\})+", r"\1", text)
    name, number = say("missing.name", "zh"), say("missing.number", "zh")
    return re.sub(
        rf"(\{{(?:地址|{name}|{number})\}})[^{{}}，。！？、；：,.!?;:\s]{{0,6}}?(?:号院|号楼|号|层|楼|路|街|室|栋|座|店)+(?=[，。！？、；：,.!?;:\s]|$)",
        r"\1",
        text,
    )


def _of_the_case(text: str, common: Callable[[str], int]) -> list[Specific]:
    """The specifics of a text, with rare Chinese words and names that no rule finds."""
    found = []
    for specific in specifics(text):
        window = max(0, specific.start - _WINDOW)
        first = specific.start == 0 or bool(re.search(r"[.!?\n]\s*$", text[window : specific.start]))
        ordinary = specific.kind == "name" and words(specific.value) == [specific.value]
        ordinary = ordinary and common(specific.value) >= SPECIFIC
        # Skip capitals at the start of a sentence, and names that are said to everybody, such as the shop's.
        first = first and not HAN.search(specific.value)
        if not ordinary or (not first and common(specific.value) < 100 * SPECIFIC):
            found.append(specific)
    taken = Taken(text)
    for each in found:
        taken.add(each.start, each.end)
    place = 0
    folded = text.casefold()
    for word in words(text):
        start = folded.find(word, place)
        if start < 0:
            continue
        place = start + (1 if HAN.match(word) else len(word))
        if not HAN.match(word) or word in STOPWORDS or common(word) >= SPECIFIC:
            continue
        end = start + len(word)
        if not taken.overlaps(start, end):
            found.append(Specific("name", start, end, word))
            taken.add(start, end)
    return _joined(sorted(found, key=lambda s: s.start), text)


def _joined(found: Sequence[Specific], text: str) -> list[Specific]:
    """Merge neighbouring rare Chinese words into one name."""
    joined: list[Specific] = []
    for specific in found:
        before = joined[-1] if joined else None
        if (
            before
            and before.kind == specific.kind == "name"
            and before.end == specific.start
            and HAN.match(specific.value)
        ):
            joined[-1] = Specific("name", before.start, specific.end, text[before.start : specific.end].casefold())
        else:
            joined.append(specific)
    return joined


def _named(text: str, specific: Specific, chinese: bool) -> tuple[str, str]:
    """A name for a missing value, from the word before it or its unit; and the unit, which is kept."""
    surface = text[specific.start : specific.end]
    before = text[max(0, specific.start - _WINDOW) : specific.start]
    kept = ""
    if specific.kind == "number":
        unit = re.search(r"(?:分钟|小时|工作日|[分元块天日号周月年点晚折%星间人]|(?<=\d) ?[A-Za-z%]+)$", surface)
        kept = unit[0] if unit and specific.unit not in ("am", "pm", "clock") else ""
    if chinese:
        head = re.search(r"([\u4e00-\u9fff]{1,12})(?:是|为|有|在|：|:|共|约|大概|消费)+\s*$", before)
        if head and (cut := [word for word in words(head[1]) if len(word) > 1 and word not in STOPWORDS]):
            return cut[-1], kept
        return say(f"missing.{_KINDS.get(specific.unit, specific.kind)}", "zh"), kept
    if specific.unit in _KINDS:
        return say(f"missing.{_KINDS[specific.unit]}", "en"), kept if specific.unit == "money" else ""
    if specific.kind == "number" and specific.unit:
        return f"{specific.unit}s", kept
    head = re.search(r"([A-Za-z]{3,})(?: (?:is|are|was|of|at|number|no\.?))*[ :#'\"]*$", before)
    if head and head[1].casefold() not in STOPWORDS and specific.kind != "date":
        return head[1].casefold(), kept
    return say(f"missing.{specific.kind}", "en"), kept
