"""TeX formulae between dollar signs, found and converted to Unicode for places that show plain text."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text

# A formula has a space just inside both dollar signs or inside neither: "$5 and $10", "$5-$10", "$HOME_A or $HOME_B"
# and "${a} ${b}" are no formulae. A run of dollar signs that opens no formula is skipped as a whole.
_FORMULA = re.compile(r"(?P<formula>\$++(?!\{)(?:(?!\s)[^$\n]{1,300}?(?<!\s)|\s[^$\n]{1,300}?\s)\$+(?![\d{]))|\$++")
_TEX = re.compile(r"[\\^_{}|=\[\]]")
_NAME = re.compile(r"[\w+\-/(), ]{0,11}[\w)]")
_SPACES = re.compile(r" (?=[⟩)\]])|(?<=⟨\w) (?=\|)")  # "⟨0 |" is ⟨0|
_SIGNS = re.compile(r" ?([+=]) ")
_GROUP = re.compile(r"([\^_])\{([^{}]*)\}")


def replace(text: str, write: Callable[[str], str]) -> str:
    """The text with each formula replaced by `write(tex)`, where `tex` has no dollar signs; amounts of money stay.

    A formula that is only a name, such as $n$, just loses its dollar signs.
    """

    def one(match: re.Match[str]) -> str:
        if match["formula"] is None:
            return match[0]
        inside = match[0].strip("$").strip()
        if _NAME.fullmatch(inside) and (len(inside) <= 3 or " " not in inside):
            return inside  # $n$-qubit
        return write(inside) if _TEX.search(inside) else match[0]

    return _FORMULA.sub(one, text) if "$" in text else text


def readable(text: str) -> str:
    r"""The text with its formulae in Unicode: "What is $|\Psi_0\rangle$?" becomes "What is |Ψ_0⟩?".

    A formula that cannot be parsed is left unchanged.
    """
    return replace(text, _in_unicode)


@lru_cache(2000)
def _in_unicode(tex: str) -> str:
    try:
        found = _converter().latex_to_text(tex.replace(r"\operatorname", r"\text"))
    except Exception:  # pylatexenc documents no base class of its errors, and users write any text here
        return f"${tex}$"
    found = " ".join(found.split())
    for _ in range(3):  # groups in groups, the innermost first
        found = _GROUP.sub(lambda group: group[1] + _bracketed(group[2]), found)
    found = _SIGNS.sub(r" \1 ", _SPACES.sub("", found))
    return found or f"${tex}$"


def _bracketed(part: str) -> str:
    """An exponent, an index, a numerator or a denominator: in brackets unless it is one word."""
    return part if re.fullmatch(r"[\w†∗*]*|√\(\w*\)", part) else f"({part})"


@cache
def _converter() -> LatexNodes2Text:
    """A pylatexenc converter that keeps groups, to delimit exponents, and writes fractions as a/b."""
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

    def fraction(node: Any, l2tobj: LatexNodes2Text) -> str:  # pylatexenc passes `l2tobj` by this name
        above, below = (
            l2tobj.nodelist_to_text([part]).strip().removeprefix("{").removesuffix("}")
            for part in node.nodeargd.argnlist[-2:]
        )
        return f"{_bracketed(above)}/{_bracketed(below)}"

    logging.getLogger("pylatexenc").setLevel(logging.ERROR)
    known = get_default_latex_context_db()
    fractions = [MacroTextSpec(name, fraction) for name in ("frac", "dfrac", "tfrac")]
    words = [MacroTextSpec(name, " mod ") for name in ("mod", "bmod", "pmod")]
    known.add_context_category("whyfeed", prepend=True, macros=[*fractions, *words])
    return LatexNodes2Text(known, math_mode="text", keep_braced_groups=True, keep_braced_groups_minlen=2)
