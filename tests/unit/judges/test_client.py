"""Clients against a real HTTP server on loopback that returns 429s, 500s, hangs and broken JSON."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from truing.errors import ConfigError, JudgeError
from truing.judges.client import Reply, judge_from
from truing.types import Message

ASK = [Message("system", "Be brief."), Message("user", "Is water wet?")]


def one(client: Any, **options: Any) -> Any:
    return client.ask([ASK], **options)[0]


def test_a_request_says_what_was_asked_and_a_reply_what_was_said(endpoint, client):
    reply = one(client(), temperature=0.5, max_tokens=7, seed=3)
    assert reply == Reply("<verdict>A</verdict>", "stop", None, 100, 10)
    assert endpoint.requests == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Is water wet?"},
            ],
            "temperature": 0.5,
            "max_tokens": 7,
            "seed": 3,
        }
    ]


def test_the_limit_of_a_reply_bears_the_name_that_the_endpoint_wants(endpoint, client):
    one(client(limit_name="max_completion_tokens"), max_tokens=7)
    assert endpoint.requests[0]["max_completion_tokens"] == 7
    assert "max_tokens" not in endpoint.requests[0]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_errors_that_may_pass_are_tried_again(endpoint, client, status):
    endpoint.script = [status, status]
    judge = client()
    assert one(judge).text == "<verdict>A</verdict>"
    assert (len(endpoint.requests), judge.usage.retries, judge.usage.failures) == (3, 2, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_errors_that_stay_are_not_tried_again(endpoint, client, status):
    endpoint.answer = status
    error = one(client())
    assert isinstance(error, JudgeError)
    assert error.status == "failed"
    assert (
        f"HTTP {status}" in str(error) and endpoint.url in str(error) and f"scripted {status}" in str(error)
    )
    assert len(endpoint.requests) == 1


def test_tries_end(endpoint, client):
    endpoint.answer = 500
    judge = client(max_tries=3)
    error = one(judge)
    assert error.status == "failed" and "3 tries" in str(error)
    assert len(endpoint.requests) == 3
    assert judge.usage.failures == 1


def test_a_deadline_ends_the_tries_too(endpoint, client):
    endpoint.answer, endpoint.retry_after = 429, "60"
    start = time.monotonic()
    error = one(client(deadline_s=1.0))
    assert error.status == "timed_out"
    assert time.monotonic() - start < 2
    assert len(endpoint.requests) == 1  # the wait that the server asks for is over the deadline


def test_the_server_says_how_long_to_wait(endpoint, client):
    endpoint.script, endpoint.retry_after = [429], "0.4"
    start = time.monotonic()
    assert one(client()).text
    assert time.monotonic() - start >= 0.4


@pytest.mark.parametrize(
    "body", [b"{", b"", b"<html>bad gateway</html>", b"[]", b'{"choices": []}', b'{"a": 1}']
)
def test_a_broken_body_is_tried_again_and_never_a_reply(endpoint, client, body):
    endpoint.script = [body]
    assert one(client()).text == "<verdict>A</verdict>"
    assert len(endpoint.requests) == 2
    endpoint.answer = body
    error = one(client(max_tries=2))
    assert isinstance(error, JudgeError) and error.status == "failed"


def test_a_hang_is_a_timeout_and_costs_no_more_than_its_deadline(endpoint, client):
    endpoint.answer = 5.0
    start = time.monotonic()
    error = one(client(timeout_s=0.2, max_tries=2))
    assert isinstance(error, JudgeError) and error.status == "timed_out"
    assert time.monotonic() - start < 3


def test_a_closed_port_is_a_failure(endpoint, client):
    judge = judge_from({"model": "m", "url": "http://127.0.0.1:9/v1", "max_tries": 1})
    with judge:
        error = one(judge)
    assert isinstance(error, JudgeError) and error.status == "failed"


def test_one_failure_leaves_the_others_alone(endpoint, client):
    endpoint.answer = lambda request: 400 if "bad" in request["messages"][0]["content"] else "good"
    found = client().ask([[Message("user", t)] for t in ("one", "bad", "two")])
    assert [f.text if isinstance(f, Reply) else f.status for f in found] == ["good", "failed", "good"]


def test_no_more_requests_at_once_than_allowed(endpoint, client):
    endpoint.delay_s = 0.05
    client(max_concurrency=3).ask([[Message("user", str(i))] for i in range(12)])
    assert endpoint.most_at_once == 3


def test_a_cached_reply_is_asked_for_once(endpoint, client, tmp_path):
    path = str(tmp_path / "new" / "replies.sqlite")
    endpoint.answer = lambda request: f"reply {len(endpoint.requests)}"
    first, again = client(cache=path), client(cache=path)
    reply = one(first, seed=1, temperature=1.0)
    cached = one(again, seed=1, temperature=1.0)
    assert (reply.text, reply.cached) == ("reply 1", False)
    assert (cached.text, cached.cached, cached.prompt_tokens) == ("reply 1", True, 100)
    assert (again.usage.requests, again.usage.cached, again.usage.cost) == (1, 1, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"top_logprobs": 5},
        {"model": "n"},
        {"cache_tag": "v2"},
    ],
    ids=str,
)
def test_whatever_changes_a_request_changes_its_key(endpoint, client, tmp_path, change):
    path = str(tmp_path / "replies.sqlite")
    table = {k: v for k, v in change.items() if k in ("model", "cache_tag")}
    options = {"seed": 1, "temperature": 1.0} | {k: v for k, v in change.items() if k not in table}
    one(client(cache=path), seed=1, temperature=1.0)
    assert not one(client(cache=path, **table), **options).cached
    assert len(endpoint.requests) == 2


def test_a_new_draw_and_a_failure_are_never_cached(endpoint, client, tmp_path):
    judge = client(cache=str(tmp_path / "replies.sqlite"), max_tries=1)
    for _ in range(2):
        one(judge, temperature=1.0)
    assert len(endpoint.requests) == 2
    endpoint.script = [500]
    assert isinstance(one(judge), JudgeError)
    assert not one(judge).cached


def test_log_probs_survive_the_cache(endpoint, client, tmp_path):
    content = [{"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": [
        {"token": "A", "logprob": -0.1, "bytes": None}, {"token": "B", "logprob": -2.5, "bytes": None}]}]  # fmt: skip
    message = {"role": "assistant", "content": "A"}
    endpoint.answer = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "logprobs": {"content": content},
    }
    judge = client(cache=str(tmp_path / "replies.sqlite"))
    fresh, cached = one(judge, top_logprobs=2), one(judge, top_logprobs=2)
    assert endpoint.requests[0]["logprobs"] is True and endpoint.requests[0]["top_logprobs"] == 2
    assert fresh.logprobs == cached.logprobs
    assert fresh.logprobs[0].top == (("A", -0.1), ("B", -2.5))


def test_a_file_that_is_no_cache_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "this is no database"}\n' * 100)
    with pytest.raises(ConfigError, match=r"rows\.jsonl.*give a path of a new file"):
        judge_from({"model": "m", "url": "http://127.0.0.1:9/v1", "cache": str(path)})


def test_two_clients_write_one_cache_at_once(endpoint, client, tmp_path):
    path = tmp_path / "replies.sqlite"
    judges = [client(cache=str(path)) for _ in range(2)]
    work = [
        threading.Thread(target=j.ask, args=([[Message("user", str(i))] for i in range(20)],)) for j in judges
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM replies").fetchone() == (20,)
    db.close()


def test_tokens_and_cost_are_counted(endpoint, client):
    judge = client(input_price=2.0, output_price=10.0)
    judge.ask([ASK] * 3)
    assert (judge.usage.prompt_tokens, judge.usage.completion_tokens) == (300, 30)
    assert judge.usage.cost == pytest.approx((300 * 2 + 30 * 10) / 1e6)


def test_the_key_comes_from_the_named_variable_and_no_other(endpoint, client, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    monkeypatch.setenv("MY_KEY", "mine")
    one(client())
    one(client(api_key_env="MY_KEY"))
    assert [{k.lower(): v for k, v in h.items()}["authorization"] for h in endpoint.headers] == [
        "Bearer none",
        "Bearer mine",
    ]
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        client(api_key_env="NOT_SET")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model": "m", "url": "localhost:8000"}, "url"),
        ({"model": "m", "ulr": "http://x"}, "ulr"),
        ({"model": "m", "api_key_env": "K"}, "api_key_env does nothing"),
        ({"model": "m", "url": "http://x/v1", "cache_tag": "v2"}, "cache_tag does nothing"),
        ({"url": "http://x/v1"}, "model"),
    ],
)
def test_a_wrong_table_is_an_error(table, message):
    with pytest.raises(ConfigError, match=message):
        judge_from(table)


def test_any_loop_and_any_thread_may_use_one_client(endpoint, client):
    judge = client()

    async def several() -> list[str]:
        return [r.text for r in await asyncio.gather(*(judge.chat(ASK) for _ in range(3)))]

    assert asyncio.run(several()) == asyncio.run(several()) == ["<verdict>A</verdict>"] * 3
    found = list[Any]()
    thread = threading.Thread(target=lambda: found.append(one(judge)))
    thread.start()
    thread.join()
    assert found[0].text == "<verdict>A</verdict>"


def test_a_synchronous_call_on_the_judges_loop_is_an_error_not_a_deadlock(client):
    from truing.judges._background import run

    judge = client()

    async def wrong() -> Any:
        return judge.ask([ASK])

    with pytest.raises(RuntimeError, match="await it"):
        run(wrong())


def test_only_one_file_imports_openai():
    folder = Path(__file__).parents[3] / "truing"
    users = [
        p.name
        for p in folder.rglob("*.py")
        if "import openai" in p.read_text() or "from openai" in p.read_text()
    ]
    assert users == ["_openai.py"]
