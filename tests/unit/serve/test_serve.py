"""The server over real HTTP on loopback: OpenAI's shapes, batching, errors, and who may ask."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from truing.cli import app
from truing.data.chat import render_prompt
from truing.errors import ConfigError
from truing.model.load import load_model
from truing.serve.address import check_address, is_loopback
from truing.serve.engine import Engine
from truing.serve.server import serving
from truing.types import Message


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine(str(tiny_model))


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(engine) as found:
        yield found


def call(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url + path, data, {"Content-Type": "application/json", **headers}, method="POST" if data else "GET"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(url: str, engine: Engine, text: str = "hello", **keys: Any) -> dict[str, Any]:
    body = {"model": engine.name, "messages": [{"role": "user", "content": text}], "max_tokens": 6, **keys}
    status, found = call(url, "/chat/completions", body)
    assert status == 200, found
    return found


def test_lists_its_model(url: str, engine: Engine) -> None:
    status, found = call(url, "/models")
    assert status == 200 and [m["id"] for m in found["data"]] == [engine.name]


def test_a_completion_has_openais_shape(url: str, engine: Engine) -> None:
    found = ask(url, engine, n=2, seed=3)
    assert found["object"] == "chat.completion" and found["model"] == engine.name
    assert [c["index"] for c in found["choices"]] == [0, 1]
    assert all(c["message"]["role"] == "assistant" for c in found["choices"])
    assert all(c["finish_reason"] in ("stop", "length") for c in found["choices"])
    usage = found["usage"]
    prompt = render_prompt(engine.tokenizer, [Message("user", "hello")])
    assert usage["prompt_tokens"] == len(prompt), "the template is training's"
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 2 <= usage["completion_tokens"] <= 12


def test_a_seed_repeats_in_any_company_and_samples_differ(url: str, engine: Engine) -> None:
    alone = ask(url, engine, seed=7, n=3)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda i: ask(url, engine, seed=7 if i == 3 else i, n=3), range(6)))
    texts = [c["message"]["content"] for c in alone["choices"]]
    assert [c["message"]["content"] for c in together[3]["choices"]] == texts
    assert len(set(texts)) == 3


def test_requests_that_arrive_together_are_decoded_together(url: str, engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ask(url, engine, seed=i, max_tokens=2 + i), range(8)))
    assert max(engine.batches) > 1


def test_logprobs_are_the_models_own(url: str, engine: Engine, tiny_model: Path) -> None:
    found = ask(url, engine, temperature=0, logprobs=True, top_logprobs=5, max_tokens=1)
    first = found["choices"][0]["logprobs"]["content"][0]
    loaded = load_model(str(tiny_model))
    prompt = torch.tensor([render_prompt(loaded.tokenizer, [Message("user", "hello")])])
    with torch.no_grad():
        logprobs = loaded.model(prompt).logits[0, -1].log_softmax(-1)
    assert first["logprob"] == pytest.approx(logprobs.max().item(), abs=0.02)
    got = [t["logprob"] for t in first["top_logprobs"]]
    assert got == pytest.approx(logprobs.topk(5).values.tolist(), abs=0.02)
    assert first["token"] == first["top_logprobs"][0]["token"] and first["logprob"] == got[0]
    assert sum(math.exp(x) for x in got) < 1


def test_stop_texts_end_a_completion_and_are_cut(url: str, engine: Engine) -> None:
    whole = ask(url, engine, seed=5, max_tokens=40)["choices"][0]
    text = whole["message"]["content"]
    stop = text[5:7]
    cut = ask(url, engine, seed=5, max_tokens=40, stop=stop, logprobs=True)
    choice = cut["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop" and cut["usage"]["completion_tokens"] < 40
    assert len(choice["logprobs"]["content"]) < cut["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("change", "status", "about"),
    [
        ({"model": "other"}, 404, "no model 'other'"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_logprobs": 2}, 400, "does nothing without logprobs"),
        ({"max_tokens": 4096}, 400, "over the model's 512 positions"),
        ({"messages": []}, 400, "messages"),
        ({"stream": True}, 400, "stream"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"seed": -1}, 400, "seed"),
        ({"stop": ""}, 400, "none of them empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}, 400, "messages"),
    ],
)
def test_what_it_cannot_do_is_an_error_in_openais_shape(
    url: str, engine: Engine, change: dict[str, Any], status: int, about: str
) -> None:
    body = {"model": engine.name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, **change}
    code, found = call(url, "/chat/completions", body)
    assert code == status and set(found["error"]) == {"message", "type", "param", "code"}
    assert about in found["error"]["message"]


def test_unknown_paths_and_broken_json_have_the_same_shape(url: str) -> None:
    assert "error" in call(url, "/nothing")[1]
    request = urllib.request.Request(url + "/chat/completions", b"{", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as error:
        assert error.code == 400 and "error" in json.load(error)


def test_peer_32_other_addresses_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert is_loopback(host)
        check_address(host, None, variable="T")
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org", ""):
        with pytest.raises(ConfigError, match="token is required: set T"):
            check_address(host, None, variable="T")
        check_address(host, "x" * 16, variable="T")
    with pytest.raises(ConfigError, match="at least 16"):
        check_address("127.0.0.1", "short", variable="T")
    monkeypatch.delenv("TRUING_SERVE_TOKEN", raising=False)
    done = CliRunner().invoke(app, ["serve", "a/b", "--host", "0.0.0.0"])
    assert done.exit_code == 2 and "TRUING_SERVE_TOKEN" in done.output


def test_peer_32_a_token_is_asked_for_and_a_foreign_name_refused(url: str, tiny_model: Path) -> None:
    other = Engine(str(tiny_model))
    token = "a-token-of-many-characters"
    with serving(other, token=token) as guarded:
        assert call(guarded, "/models")[0] == 401
        assert call(guarded, "/models", Authorization="Bearer wrong")[0] == 401
        assert call(guarded, "/models", Authorization=f"Bearer {token}")[0] == 200
    status, _ = _raw(url, "attacker.example")
    assert status == 400, "a page whose name resolves to this machine gets nothing"


def _raw(url: str, host: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url + "/models", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_port_in_use_is_an_error(url: str, engine: Engine) -> None:
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(ConfigError, match="cannot listen"), serving(engine, port=port):
        pass
