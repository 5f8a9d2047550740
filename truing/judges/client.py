"""Chat models that judge: one interface for any OpenAI-compatible endpoint and for a model in this process.

client = judge_from({"model": "judge-7b", "url": "http://127.0.0.1:8000/v1", "cache": "replies.sqlite"})
reply = await client.chat([Message("user", "Is water wet?")])
replies = client.ask([[Message("user", "Is water wet?")]])  # the same from code that is not async
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pydantic import ValidationError

from truing.config import Endpoint
from truing.errors import ConfigError, JudgeError
from truing.judges._background import loop, on_loop, run
from truing.judges._cache import ReplyCache, key_of
from truing.judges._retry import with_retries
from truing.types import Message


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of a reply; `top` holds the likeliest tokens at its place and their log-probs [nats]."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a chat model said.

    Args:
        text: its words; "" where it refused.
        finish_reason: stop, length, content_filter, or what else the endpoint says.
        logprobs: of each token; None where they were not asked for, or the endpoint has none.
        prompt_tokens: as the endpoint counts them; 0 where it does not.
        completion_tokens: as the endpoint counts them; 0 where it does not.
        refusal: the words of a refusal that the endpoint marks as one.
        cached: whether it was read from the cache, at no cost.
    """

    text: str
    finish_reason: str = "stop"
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refusal: str | None = None
    cached: bool = False


class Chat(Protocol):
    """Anything that answers a conversation."""

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> Reply:
        """Return the reply; temperature 0 is greedy, top_logprobs the likeliest tokens at each place.

        Raises:
            JudgeError: there is no usable reply; its status says how.
        """
        ...


@dataclass(slots=True)
class Usage:
    """What a client asked for so far.

    Args:
        requests: replies and failures, those from the cache too.
        cached: replies that came from the cache.
        retries: tries after the first of a request.
        failures: requests that ended without a reply.
        cost: of what was not cached, in the unit of the prices.
    """

    requests: int = 0
    cached: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True, weakref_slot=True)
class Client:
    """A chat model with at most so many requests at once, retries, a cache on disk, and counts.

    Every request runs on one background event loop, so any thread and any loop may use a client.

    Args:
        inner: what answers.
        endpoint: its limits and prices.
        identity: what the cache's key holds of it besides the request.
    """

    inner: Chat
    endpoint: Endpoint
    identity: Mapping[str, Any]
    usage: Usage = field(default_factory=Usage)
    _cache: ReplyCache | None = None
    _slots: asyncio.Semaphore = field(init=False)
    _end: weakref.finalize[..., Client] = field(init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.endpoint.max_concurrency)
        if self.endpoint.cache is not None:
            self._cache = ReplyCache(Path(self.endpoint.cache).expanduser())
        self._end = weakref.finalize(self, _let_go, self.inner, self._cache)
        self._end.atexit = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self.endpoint.model

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> Reply:
        """Return the reply, from the cache where it was asked before.

        A request at a temperature without a seed is a new draw each time, so it is never cached.

        Raises:
            JudgeError: no usable reply came within the tries and the deadline.
        """
        options = {
            "temperature": temperature, "max_tokens": max_tokens, "seed": seed, "top_logprobs": top_logprobs,
        }  # fmt: skip
        return await on_loop(self._chat(tuple(messages), options))

    def ask(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> list[Reply | JudgeError]:
        """Return the reply to each conversation, or its error, from code that is not async."""
        options = {
            "temperature": temperature, "max_tokens": max_tokens, "seed": seed, "top_logprobs": top_logprobs,
        }  # fmt: skip

        async def one(messages: Sequence[Message]) -> Reply | JudgeError:
            try:
                return await self._chat(tuple(messages), options)
            except JudgeError as error:
                return error

        async def every() -> list[Reply | JudgeError]:
            return await asyncio.gather(*(one(c) for c in conversations))

        return run(every())

    def close(self) -> None:
        """Close connections, files and threads; a client that is let go closes them by itself."""
        self._end.detach()
        close = getattr(self.inner, "close", None)
        if close is not None:
            run(close())
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _chat(self, messages: tuple[Message, ...], options: dict[str, Any]) -> Reply:
        self.usage.requests += 1
        repeatable = options["temperature"] == 0 or options["seed"] is not None
        key = key_of(self.identity, messages, options) if self._cache is not None and repeatable else None
        if key is not None and self._cache is not None and (record := self._cache.get(key)) is not None:
            self.usage.cached += 1
            return _reply(record)
        try:
            reply = await with_retries(
                lambda: self._one_try(messages, options),
                max_tries=self.endpoint.max_tries,
                deadline_s=self.endpoint.deadline_s,
                on_retry=self._count_retry,
            )
        except JudgeError:
            self.usage.failures += 1
            raise
        self._count(reply)
        if key is not None and self._cache is not None:
            self._cache.put(key, _record(reply))
        return reply

    async def _one_try(self, messages: tuple[Message, ...], options: dict[str, Any]) -> Reply:
        async with self._slots:
            try:
                return await asyncio.wait_for(self.inner.chat(messages, **options), self.endpoint.timeout_s)
            except TimeoutError as error:
                raise JudgeError(
                    f"{self.model}: no reply within {self.endpoint.timeout_s:g} s", "timed_out", retry=True
                ) from error

    def _count_retry(self) -> None:
        self.usage.retries += 1

    def _count(self, reply: Reply) -> None:
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        price = reply.prompt_tokens * self.endpoint.input_price
        self.usage.cost += (price + reply.completion_tokens * self.endpoint.output_price) / 1e6


def judge_from(spec: Endpoint | Mapping[str, Any]) -> Client:
    """Return the client of an endpoint's table: `model` at `url`, or in this process without one.

    Raises:
        ConfigError: a key is wrong, or the environment variable of the API key is not set.
        ModelError: a model in this process cannot be loaded.
    """
    endpoint = spec if isinstance(spec, Endpoint) else _endpoint(spec)
    if endpoint.url is None:
        from truing.judges._local import LocalChat

        local = LocalChat(endpoint.model)
        weights = local.fingerprint() if endpoint.cache is not None else ""
        return Client(local, endpoint, {"weights": weights, "tag": endpoint.cache_tag})
    from truing.judges._openai import OpenAIChat

    chat = OpenAIChat(
        model=endpoint.model, url=endpoint.url, api_key=_api_key(endpoint), timeout_s=endpoint.timeout_s,
        limit_name=endpoint.limit_name,
    )  # fmt: skip
    identity = {"url": endpoint.url, "model": endpoint.model, "tag": endpoint.cache_tag}
    return Client(chat, endpoint, identity)


def _let_go(inner: Any, cache: ReplyCache | None) -> None:
    """Close what a client leaves behind, without waiting: this runs wherever it is collected."""
    if hasattr(inner, "close"):
        asyncio.run_coroutine_threadsafe(inner.close(), loop())
    if cache is not None:
        cache.close()


def _endpoint(spec: Mapping[str, Any]) -> Endpoint:
    try:
        return Endpoint(**spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "endpoint"
        known = ", ".join(Endpoint.model_fields)
        raise ConfigError(f"endpoint: {where}: {first['msg']}; its keys: {known}") from error


def _api_key(endpoint: Endpoint) -> str | None:
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise ConfigError(
            f"endpoint {endpoint.url}: the environment variable {endpoint.api_key_env} is not set; "
            "it must hold the API key"
        )
    return key


def _record(reply: Reply) -> dict[str, Any]:
    tokens = reply.logprobs
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "logprobs": None if tokens is None else [[t.token, t.logprob, t.top] for t in tokens],
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "refusal": reply.refusal,
    }


def _reply(record: dict[str, Any]) -> Reply:
    tokens = record.pop("logprobs")
    logprobs = tokens and [TokenLogprob(t, x, tuple((w, p) for w, p in top)) for t, x, top in tokens]
    return Reply(**record, logprobs=None if logprobs is None else tuple(logprobs), cached=True)
