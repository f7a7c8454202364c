"""Make sure that there is a browser for the page's tests: `python -m tests.browser`.

Playwright's own where it can be downloaded, else Debian's package; a machine that allows neither
is told so in one line, and the tests do not pass there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.page_driver import NoBrowser, chromium


def main() -> int:
    """Look, install, look again."""
    if _works():
        return 0
    _try([sys.executable, "-m", "playwright", "install", "chromium"])
    if _works():
        return 0
    if shutil.which("apt-get"):
        _try(["apt-get", "update", "-qq"])
        _try(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])
    try:
        with chromium():
            return 0
    except NoBrowser as exc:
        print(f"whyfeed's page tests need a browser: {exc}", file=sys.stderr)
        return 1


def _works() -> bool:
    try:
        with chromium():
            return True
    except NoBrowser:
        return False


def _try(command: list[str]) -> None:
    """Run an installer; that it fails is seen by looking for the browser again."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=600)


if __name__ == "__main__":
    sys.exit(main())
