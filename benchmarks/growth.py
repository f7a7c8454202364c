"""How the cost of the ranking core grows with the events of a home: fit, update and request, with exponents.

    python -m benchmarks.growth [--factors 1,10,100] [--plot docs/growth.png]

Synthetic communities with a multiple of the demo's posts, users and events (1,275, 1,336, 8,013). Vectors are hashed
words, because embedding takes hours and is not part of the core. Seconds of one run on this machine. The exponent is
the slope of log seconds over log events: 1 is linear.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic import write_community
from whyfeed import Agent
from whyfeed.finetune.ranking.fit import fit_agent

POSTS, USERS, EVENTS = 1_275, 1_336, 8_013
REQUESTS = 20


def main() -> None:
    """Measure, print a table, and plot it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", default="1,10,100")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    factors = [int(each) for each in args.factors.split(",")]
    rows: list[dict[str, float]] = []
    for factor in factors:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(Path(folder), factor))
            print(f"{factor} x: " + ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    events = np.array(factors) * EVENTS
    print(f"\n{'seconds':34}" + "".join(f"{each:>12,}" for each in events) + f"{'exponent':>10}")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:34}" + "".join(f"{value:12.4g}" for value in values) + f"{exponent(events, values):10.2f}")
    if args.plot:
        _plot(args.plot, events, rows)


def measured(folder: Path, factor: int) -> dict[str, float]:
    """Seconds by operation, for a home with `factor` times the demo's events."""
    write_community(folder / "exchange", POSTS * factor, USERS * factor, EVENTS * factor)
    found: dict[str, float] = {}
    with Agent.open(folder / "home", embedder="hash-512", no_llm=True) as agent:
        agent.import_folder(folder / "exchange")
        agent.build()  # vectors and neighbours, which a fit does not recompute
        fitted: list[Any] = []
        found["fit (whyfeed finetune rank)"] = _seconds(lambda: fitted.append(fit_agent(agent)))
        readers = [member.id for member in agent.members(limit=REQUESTS)]
        for reader in readers[:2]:
            agent.recommend(reader)
        found["request"] = float(np.median([_seconds(lambda who=who: agent.recommend(who)) for who in readers]))
        posts = [agent.recommend(reader).items[0].post.id for reader in readers]

        def react(place: int) -> None:
            agent.feedback(readers[place], posts[place], "like")
            agent.recommend(readers[place])

        found["event, then request"] = float(np.median([_seconds(lambda n=n: react(n)) for n in range(len(readers))]))
    with Agent.open(folder / "home", embedder="hash-512", no_llm=True) as agent:
        found["opening and first request"] = _seconds(lambda: agent.recommend(readers[0]))
    return found


def exponent(events: Any, values: list[float]) -> float:
    """Slope of log seconds over log events."""
    return float(np.polyfit(np.log(events), np.log(values), 1)[0]) if len(values) > 1 else float("nan")


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _plot(path: Path, events: Any, rows: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.6))
    for name in rows[0]:
        values = [row[name] for row in rows]
        axes.loglog(events, values, marker="o", label=f"{name} (exponent {exponent(events, values):.2f})")
    axes.set_xlabel("events in the home")
    axes.set_ylabel("seconds")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
