"""The model that reads each post once: what its vectors depend on, and that other engines agree with them."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.tiny_llama import HEADS, SHARED, WIDTH, tiny_llama
from whyfeed import Agent
from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.post_encoder import LARGE, LARGE_POSTS, CausalEncoder, RemoteEncoder, open_encoder, opener
from whyfeed.agent.encoder.tokenizer import Tokenizer
from whyfeed.agent.llm import weights
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.community.post_vectors import encoded
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.store import Store

TEXTS = ["the tide", "", "a water clock of the Song", "ink", "the tide tables of 1842, and the moon"]
Write = Callable[..., Path]
PINNED = [-0.0034, -0.1373, -0.0621, 0.0672, -0.0844, -0.0819]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A tiny Llama with random weights in a GGUF file; `changed` replaces metadata."""
    return lambda name="tiny", **changed: tiny_llama(tmp_path / f"{name}.gguf", **changed)


def by_hand(path: Path, ids: list[int], depth: int) -> npt.NDArray[np.float64]:
    """The states after `depth` layers, one token and one head at a time, in float64."""
    file = GgufFile(path)
    size = WIDTH // HEADS
    qwen = file.fields["general.architecture"] == "qwen2"

    def normed(state: Any, name: str) -> Any:
        return state / np.sqrt((state**2).mean() + 1e-5) * file.tensor(name).astype(np.float64)

    def turned(head: Any, place: int) -> Any:
        """Neighbours turn together, in Qwen those half a head apart, the first pair fastest."""
        out = head.copy()
        for pair in range(size // 2):
            angle = place * 10_000.0 ** (-2 * pair / size)
            left, right = (pair, pair + size // 2) if qwen else (2 * pair, 2 * pair + 1)
            one, other = head[left], head[right]
            out[left] = one * np.cos(angle) - other * np.sin(angle)
            out[right] = one * np.sin(angle) + other * np.cos(angle)
        return out

    states = [file.tensor("token_embd.weight")[id].astype(np.float64) for id in ids]
    for layer in range(depth):

        def weight(name: str, layer: int = layer) -> Any:
            return file.tensor(f"blk.{layer}.{name}.weight").astype(np.float64)

        def shifted(name: str, read: Any, layer: int = layer) -> Any:
            found = weight(name, layer) @ read
            return found + file.tensor(f"blk.{layer}.{name}.bias") if qwen else found

        read = [normed(state, f"blk.{layer}.attn_norm.weight") for state in states]
        keys = [
            [turned(head, place) for head in shifted("attn_k", each).reshape(SHARED, size)]
            for place, each in enumerate(read)
        ]
        values = [shifted("attn_v", each).reshape(SHARED, size) for each in read]
        for place, each in enumerate(read):
            found = []
            for number, head in enumerate(shifted("attn_q", each).reshape(HEADS, size)):
                shared = number // (HEADS // SHARED)
                asked = turned(head, place)
                scores = np.exp([asked @ keys[seen][shared] / size**0.5 for seen in range(place + 1)])
                found.append(sum(s * values[seen][shared] for seen, s in enumerate(scores / scores.sum())))
            states[place] = states[place] + weight("attn_output") @ np.concatenate(found)
        for place, state in enumerate(states):
            each = normed(state, f"blk.{layer}.ffn_norm.weight")
            gate = weight("ffn_gate") @ each
            states[place] = state + weight("ffn_down") @ (gate / (1 + np.exp(-gate)) * (weight("ffn_up") @ each))
    return np.array(states)


# ---- tokens


def test_text_is_split_into_words_digits_and_pairs_in_the_order_of_their_merges(write: Write) -> None:
    file = GgufFile(write())
    tokens = file.fields["tokenizer.ggml.tokens"]
    split = [tokens[id] for id in Tokenizer(file).encode("the tide, the 12th_tid")]
    assert split == ["the", "Ġ", "tide", ",", "Ġthe", "Ġ", "1", "2", "th", "_", "tid"]


def test_a_text_that_spells_a_special_token_is_only_text_and_every_byte_has_a_token(write: Write) -> None:
    tokenizer = Tokenizer(GgufFile(write()))
    assert len(tokenizer.encode("<|im_start|>")) == 12
    assert len(tokenizer.encode("水²\x00\ud800")) == 3 + 2 + 1 + 1


# ---- tensors


def test_a_quantised_tensor_is_unpacked_whole_or_by_rows(tmp_path: Path) -> None:
    import gguf

    plain = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    q8, nowhere = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.I8
    writer = gguf.GGUFWriter(tmp_path / "packed.gguf", "llama")
    writer.add_tensor("packed", gguf.quantize(plain, q8), raw_dtype=q8)
    writer.add_tensor("bytes", plain.astype(np.int8), raw_dtype=nowhere)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "packed.gguf")
    whole = file.tensor("packed")
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, plain, atol=0.02)
    assert np.array_equal(file.rows("packed", np.array([4, 1])), whole[[4, 1]])
    with pytest.raises(ModelError, match="unpacks"):
        file.tensor("bytes")
    with pytest.raises(ModelError, match="no tensor 'other'"):
        file.tensor("other")


# ---- vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", [("llama", "smollm"), ("qwen2", "qwen2")])
def test_a_vector_is_the_mean_of_the_normed_states_of_the_texts_own_tokens(
    write: Write, dtype: Any, kind: tuple[str, str]
) -> None:
    path = write(dtype=dtype, architecture=kind[0], pre=kind[1])
    tokenizer = Tokenizer(GgufFile(path))
    before, own = tokenizer.encode("Post:"), tokenizer.encode(" the tide")
    states = [by_hand(path, before + own, depth)[len(before) :] for depth in (1, 3)]
    expected = [(each / np.sqrt((each**2).mean(axis=1, keepdims=True) + 1e-5)).mean(axis=0) for each in states]
    (found,) = CausalEncoder(path, (1, 3)).encode(["the tide"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_a_vector_does_not_depend_on_what_else_is_read(write: Write) -> None:
    encoder = CausalEncoder(write(), (2, 3), threads=2)
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.dimension) == (5, 2 * WIDTH)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-5)
    assert encoder.encode(TEXTS * 40)[-5:] == pytest.approx(together, abs=1e-5)
    assert np.array_equal(encoder.encode(TEXTS), together)
    assert not together[1].any()
    assert encoder.encode([]).shape == (0, 2 * WIDTH)


def test_only_the_first_tokens_are_read_and_white_space_says_nothing(write: Write) -> None:
    encoder = CausalEncoder(write(), (3,), max_tokens=3)
    one, other, third = encoder.encode(["the the the tide", " the\n the  the ink", "the the tide"])
    assert one == pytest.approx(other, abs=1e-5)
    assert np.abs(one - third).max() > 0.01


def test_a_name_tells_apart_what_gives_other_vectors(write: Write) -> None:
    path = write()
    names = {CausalEncoder(path, layers, max_tokens=most).name for layers in ((1,), (1, 3)) for most in (8, 9)}
    assert len(names | {CausalEncoder(path, name="tuned").name}) == 5


# ---- refused


def test_a_file_that_cannot_be_read_is_refused_in_one_line(write: Write, tmp_path: Path) -> None:
    whole = write().read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[:-3000])
    (tmp_path / "shorter.gguf").write_bytes(whole[:200])
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "other.gguf").write_bytes(b"PK" + whole)
    refused = {
        tmp_path / "none.gguf": "check the path", tmp_path / "empty.gguf": "check the path",
        tmp_path / "short.gguf": "ends within", tmp_path / "shorter.gguf": "not a whole GGUF",
        tmp_path / "other.gguf": "not a whole GGUF", write("pre", pre="llama-bpe"): "smollm",
        write("arch", architecture="phi3"): "architecture 'phi3'",
    }  # fmt: skip
    for path, why in refused.items():
        with pytest.raises(ModelError, match=why) as caught:
            CausalEncoder(path, (3,)).encode(["the tide"])
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="3 layers, not 4"):
        CausalEncoder(write(), (4,)).encode(["the tide"])
    with pytest.raises(ModelError, match="unknown encoder 'nothing'"):
        open_encoder("nothing")
    with pytest.raises(ValueError, match="at least 1"):
        CausalEncoder(write(), (0,))


# ---- kept in the home


class Counting(HashEmbedder):
    """Remembers what it was given to read."""

    def __init__(self, name: str) -> None:
        super().__init__(16)
        self.name, self.read = name, list[str]()

    def encode(self, texts: Any) -> Any:
        self.read += texts
        return super().encode(texts)


def test_a_post_is_read_once_and_again_only_when_its_text_changed(empty_store: Store) -> None:
    first, second = Counting("first"), Counting("second")
    long = "word " * 100
    empty_store.put_posts([Post("a", title="Tide tables"), Post("b", text=long), Post("c", tags=("ink", "brush"))])
    nums, vectors = encoded(empty_store, first)
    assert (first.read, vectors.shape) == (["Tide tables", long, "ink brush"], (3, 16))
    # Beyond what the embedder reads, and within what the encoder does.
    empty_store.put_posts([Post("b", text=long + "end"), Post("c", tags=("ink", "brush"), url="https://example.org")])
    again, changed = encoded(empty_store, first)
    assert first.read[3:] == [long + "end"]
    assert again == nums
    assert np.array_equal(changed[[0, 2]], vectors[[0, 2]])
    assert not np.array_equal(changed[1], vectors[1])
    encoded(empty_store, second)
    assert len(second.read) == 3
    empty_store.remove_posts(["a"])
    assert encoded(empty_store, first)[0] == nums[1:]
    assert len(first.read) == 4


def test_what_was_read_before_a_failure_is_kept_and_progress_is_told(empty_store: Store) -> None:
    class Failing(Counting):
        def encode(self, texts: Any) -> Any:
            if len(self.read) >= 64:
                raise ModelError("gone")
            return super().encode(texts)

    empty_store.put_posts(Post(f"p{number}", title=f"word{number}") for number in range(100))
    said: list[tuple[str, int, int]] = []
    with pytest.raises(ModelError, match="gone"):
        encoded(empty_store, Failing("same"), lambda *step: said.append(step))
    rest = Counting("same")
    assert encoded(empty_store, rest, lambda *step: said.append(step))[1].shape == (100, 16)
    assert rest.read == [f"word{number}" for number in range(64, 100)]
    assert [step[1:] for step in said] == [(64, 100), (36, 36)]


# ---- behind a server


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that pools all tokens of a text by their mean, with switches of bad days: `flat`, `status`."""
    switches: dict[str, Any] = {"status": 200, "flat": False, "asked": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send({"object": "list", "data": [{"id": "cut", "object": "model", "created": 0, "owned_by": "x"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            switches["asked"].append((self.path, body["input"]))
            words = body["input"].split()
            vector = np.mean([token_vector(word) for word in words], axis=0).tolist()
            count = 1 if switches["flat"] else len(words)
            self.send(
                {
                    "object": "list", "model": "cut",
                    "data": [{"object": "embedding", "index": 0, "embedding": vector}],
                    "usage": {"prompt_tokens": count, "total_tokens": count},
                },
                switches["status"],
            )  # fmt: skip

        def send(self, document: Any, status: int = 200) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_port}", switches
        finally:
            served.shutdown()
            thread.join()


def token_vector(word: str) -> npt.NDArray[np.float64]:
    return np.array([len(word), ord(word[0]), 1.0])


def test_a_server_s_mean_loses_the_tokens_before_the_text(server: tuple[str, dict[str, Any]]) -> None:
    url, switches = server
    encoder = open_encoder(url)
    vectors = encoder.encode(["the tide", "", "ink\non  silk"])
    assert vectors[0] == pytest.approx(np.mean([token_vector(word) for word in ("the", "tide")], axis=0), abs=1e-5)
    assert vectors[2] == pytest.approx(
        np.mean([token_vector(word) for word in ("ink", "on", "silk")], axis=0), abs=1e-5
    )
    assert not vectors[1].any()
    assert (encoder.dimension, encoder.name) == (3, "cut/served")
    asked = sorted(text for _, text in switches["asked"])
    assert asked == ["Post:", "Post: ink on silk", "Post: the tide"]
    assert {path for path, _ in switches["asked"]} == {"/v1/embeddings"}


def test_a_server_that_does_not_pool_or_fails_is_said_in_one_line(server: tuple[str, dict[str, Any]]) -> None:
    url, switches = server
    encoder = RemoteEncoder(OpenAIEngine(url, retries=0))
    assert encoder.encode(["ink"]).shape == (1, 3)
    switches["flat"] = True
    with pytest.raises(ModelError, match="mean pooling"):
        encoder.encode(["the tide"])
    switches |= {"flat": False, "status": 500}
    with pytest.raises(ModelError, match="HTTP 500"):
        encoder.encode(["the tide"])


# ---- the real weights


@pytest.mark.slow
def test_the_real_model_is_the_one_that_transformers_runs_and_opens_at_once() -> None:
    """Tokens and numbers are those of transformers 5.24 in float32 (`benchmarks.encoder_speed` compares at length)."""
    path = weights.check(weights.find("ranker"))
    tokens = Tokenizer(GgufFile(path)).encode("Fire Emblem: The Sacred Stones 2²½ (2004) 中文 don't")
    assert tokens == [
        24042, 2553, 9499, 42, 378, 27051, 42108, 216, 34, 19133, 16738, 365, 34, 32, 32, 36, 25, 216, 28589, 29184,
        1326, 982,
    ]  # fmt: skip
    encoder = CausalEncoder(path)
    start = time.process_time()
    assert encoder.dimension == 2 * 576
    assert time.process_time() - start < 3  # twelve layers, .4 s on a machine that does nothing else
    (vector,) = encoder.encode(["Fire Emblem: The Sacred Stones (2004)"])
    assert vector[[0, 1, 2, 573, 574, 575]] == pytest.approx(PINNED, abs=1e-3)


@pytest.mark.slow
def test_the_larger_model_is_the_one_that_transformers_runs() -> None:
    """Tokens and numbers are those of transformers 5.24 in float32, on the same weights unpacked."""
    path = weights.check(weights.find(LARGE))
    tokenizer = Tokenizer(GgufFile(path))
    assert tokenizer.encode("Fire Emblem: The Sacred Stones 2²½ (2004) 中文 don't DON'T\n\n x_y") == [
        16697, 93136, 25, 576, 60018, 56100, 220, 17, 29456, 26062, 320, 17, 15, 15, 19, 8, 72858, 16744, 1513, 944,
        44273, 17323, 271, 856, 4178,
    ]  # fmt: skip
    assert tokenizer.encode("e\u0301tude") == tokenizer.encode("étude")
    (vector,) = CausalEncoder(path, (2,)).encode(["Fire Emblem: The Sacred Stones (2004)"])
    assert vector[[0, 1, 2, 1533, 1534, 1535]] == pytest.approx(
        [-0.2205, -0.2040, -0.1928, -0.2403, 0.4009, -0.2692], abs=1e-3
    )


@pytest.mark.slow
def test_few_posts_are_read_by_the_larger_model_many_by_the_smaller_and_all_by_one_that_is_named(write: Write) -> None:
    few, many = ["a title"] * LARGE_POSTS, ["a title"] * (LARGE_POSTS + 1)
    assert [opener()(texts).name.split("-")[0] for texts in (few, many)] == ["qwen2.5", "smollm2"]
    assert opener(str(write()))(few).name.startswith("tiny/")
    with pytest.raises(ModelError, match="unknown encoder 'nothing'"):
        opener("nothing")


def test_a_home_may_name_what_reads_its_posts(write: Write, tmp_path: Path) -> None:
    with Agent.open(tmp_path / "home", embedder="hash-64", encoder=str(write())) as agent:
        encoder = agent.encoder
        assert encoder is not None
        assert encoder.name.startswith("tiny/4+12/")
