"""The HTML report of one evaluation: tables and plots in a single file without external resources or scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LABEL, _BAR, _VALUE = 150, 420, 150  # widths of a plot's columns
_LINE = 24
_HEIGHT = 220
_COLOURS = ("#0b7285", "#c2410c", "#5f3dc4", "#2b8a3e", "#a61e4d", "#846c00")
_DRAWN = 6  # largest number of lines in one plot; more cannot be told apart
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6875; --line: #d5dce3; --page: #fbfbf9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa7b3; --line: #38434d; --page: #14191e; } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p, figcaption { color: var(--soft); } figure { margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
small { color: var(--soft); }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); }
"""


def page(document: Mapping[str, Any], main: Sequence[str]) -> str:
    """The report of a document of `evaluate --json` for posts; `main` names the metrics that are plotted."""
    rows = document["rows"]
    parts = [
        f"<h1>{escape(document['data'])}</h1><p>{escape(document['protocol'])}</p>",
        *(_figure(f"{metric} with 95 % intervals over users", _bars(rows, metric)) for metric in main),
    ]
    for kind, title in (("history", "length of the user's history"), ("target", "number of times the post was seen")):
        metric = main[0]
        if any(_points(row, kind, metric) for row in rows):
            parts.append(_figure(f"{metric} by {title}, 95 % intervals", _lines(rows, kind, metric)))
    parts += ["<h2>All metrics</h2>", _table(rows, list(rows[0]["metrics"]) if rows else [])]
    if any(row["beyond"] for row in rows):
        parts += ["<h2>Beyond accuracy: the first ten of each list</h2>", _beyond(rows)]
    if any(row["paired"] for row in rows):
        parts += ["<h2>Against the best baseline, paired</h2>", _paired(rows)]
    if gate := document["gate"]:
        parts += [f"<h2>The gate</h2><p>{escape(gate['why'])}</p>", _gate(gate)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(document['data'])}: rankers measured</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _figure(caption: str, svg: str) -> str:
    return f"<figure><h2>{escape(caption)}</h2>{svg}</figure>"


def _bars(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    most = max((row["ci95"][metric][1] for row in rows), default=0) or 1.0
    height = _LINE * len(rows) + 4
    drawn = []
    for place, row in enumerate(rows):
        middle = _LINE * place + _LINE / 2 + 2
        value, (low, high) = row["metrics"][metric], row["ci95"][metric]
        x, left, right = (_LABEL + _BAR * max(0.0, each) / most for each in (value, low, high))
        colour = _COLOURS[0] if row["ranker"].startswith("whyfeed") else "#8795a1"
        drawn.append(
            f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row["ranker"])}</text>'
            f'<rect x="{_LABEL}" y="{middle - 7:.1f}" width="{max(x - _LABEL, 0):.1f}" height="14" fill="{colour}"/>'
            f'<path d="M{left:.1f} {middle:.1f}H{right:.1f}m0 -4v8M{left:.1f} {middle - 4:.1f}v8" '
            'stroke="currentColor" fill="none"/>'
            f'<text class="soft" x="{_LABEL + _BAR + 12}" y="{middle + 4:.1f}">'
            f"{_with_interval(value, (low, high))}</text>"
        )
    return _svg(_LABEL + _BAR + _VALUE, height, f"{metric} of each ranker", drawn)


def _lines(rows: Sequence[Mapping[str, Any]], kind: str, metric: str) -> str:
    """One line per ranker over the buckets: whyfeed, and the best of the other rankers."""
    ranked = sorted(rows, key=lambda row: -row["metrics"][metric])
    ours = [row for row in ranked if row["ranker"].startswith("whyfeed")][:1]
    shown = [*ours, *(row for row in ranked if not row["ranker"].startswith("whyfeed"))][:_DRAWN]
    names = list(dict.fromkeys(point[0] for row in shown for point in _points(row, kind, metric)))
    most = max((point[2][1] for row in shown for point in _points(row, kind, metric)), default=0) or 1.0
    step = _BAR / max(len(names), 1)
    drawn = [f'<path class="axis" d="M40 {_HEIGHT}H{40 + _BAR}" fill="none"/>']
    for tick in (0.0, 0.5, 1.0):
        drawn.append(f'<text class="soft" x="4" y="{_HEIGHT - tick * (_HEIGHT - 20) + 4:.1f}">{tick * most:.2f}</text>')
    for at, name in enumerate(names):
        x = 40 + step * (at + 0.5)
        drawn.append(f'<text x="{x:.1f}" y="{_HEIGHT + 18}" text-anchor="middle">{escape(name)}</text>')
    for place, row in enumerate(shown):
        colour = _COLOURS[place]
        points = []
        for name, value, (low, high) in _points(row, kind, metric):
            # Next to each other, so that intervals do not overlap.
            x = 40 + step * (names.index(name) + 0.5) + 5 * (place - len(shown) / 2)
            top, bottom, y = (_HEIGHT - each / most * (_HEIGHT - 20) for each in (high, low, value))
            points.append(f"{x:.1f},{y:.1f}")
            drawn.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" fill="none"/>')
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        drawn.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = 20 + place * 20
        drawn.append(
            f'<rect x="{60 + _BAR}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{76 + _BAR}" y="{y}">{escape(row["ranker"])}</text>'
        )
    return _svg(_BAR + 60 + _VALUE, _HEIGHT + 28, f"{metric} by {kind}", drawn)


def _points(row: Mapping[str, Any], kind: str, metric: str) -> list[tuple[str, float, tuple[float, float]]]:
    return [
        (part["bucket"], part["metrics"][metric], (part["ci95"][metric][0], part["ci95"][metric][1]))
        for part in row["buckets"].get(kind, [])
        if metric in part["metrics"]
    ]


def _svg(width: float, height: float, label: str, drawn: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
        f"{''.join(drawn)}</svg>"
    )


def _table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    lines = [
        [row["ranker"], *(_with_interval(row["metrics"][each], row["ci95"][each]) for each in metrics),
         f"{row['ms_per_user']:.2f}", f"{row['fit_seconds']:.1f}"]
        for row in rows
    ]  # fmt: skip
    return _html_table(["ranker", *metrics, "ms a user", "fit, s"], lines)


def _beyond(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["beyond"]))
    lines = []
    for row in rows:
        found = [row["beyond"].get(name, {}) for name in names]
        cells = [
            _with_interval(each["value"], each["ci95"]) if "ci95" in each else f"{each['value']:.3f}" if each else ""
            for each in found
        ]
        lines.append([row["ranker"], *cells])
    return _html_table(["ranker", *names], lines)


def _paired(rows: Sequence[Mapping[str, Any]]) -> str:
    found = [row for row in rows if row["paired"]]
    names = list(found[0]["paired"]["difference"])
    lines = [
        [row["ranker"], row["paired"]["against"],
         *(_with_interval(row["paired"]["difference"][each], row["paired"]["ci95"][each], sign="+") for each in names)]
        for row in found
    ]  # fmt: skip
    return _html_table(["ranker", "against", *names], lines)


def _gate(gate: Mapping[str, Any]) -> str:
    lines = [
        [part["history"], str(part["cases"]), str(part["users"]), part["verdict"],
         "" if part["verdict"] == "few" else _with_interval(part["difference"], part["ci95"], sign="+")]
        for part in gate["buckets"]
    ]  # fmt: skip
    return _html_table(["history", "rows", "users", "verdict", f"difference, {gate['metric']}"], lines)


def _with_interval(value: float, interval: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
