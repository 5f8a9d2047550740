"""Chat completions of any OpenAI-compatible endpoint. The only file that imports openai."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openai

from truing.errors import JudgeError
from truing.judges.client import Reply, TokenLogprob
from truing.types import Message

_MAY_PASS = {408, 409, 425, 429}


class OpenAIChat:
    """A model at a base URL; one try a call, without retries."""

    def __init__(
        self, *, model: str, url: str, api_key: str | None, timeout_s: float, limit_name: str = "max_tokens"
    ) -> None:
        """Name the model and its address; nothing is sent yet.

        Args:
            model: as the endpoint names it.
            url: the base URL, which ends in /v1 as a rule.
            api_key: None sends none of the user's keys, whatever the environment holds.
            timeout_s: of connecting, and of a wait for bytes [s].
            limit_name: what the endpoint calls the limit of a reply.
        """
        self._model, self._url, self._limit_name = model, url, limit_name
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=api_key or "none", timeout=timeout_s, max_retries=0
        )

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        top_logprobs: int = 0,
    ) -> Reply:
        """Return the reply.

        Raises:
            JudgeError: a status other than 200, a timeout, a lost connection, or a reply of another form.
        """
        options: dict[str, Any] = {"temperature": temperature, self._limit_name: max_tokens}
        if seed is not None:
            options["seed"] = seed
        if top_logprobs:
            options |= {"logprobs": True, "top_logprobs": top_logprobs}
        said: Any = [{"role": m.role, "content": m.content} for m in messages]
        try:
            raw = await self._client.chat.completions.create(model=self._model, messages=said, **options)
        except openai.APIError as error:
            raise self._problem(error) from error
        except ValueError as error:  # a body that is no JSON
            raise JudgeError(f"{self._url}: the reply is broken: {error}", retry=True) from error
        return self._read(raw)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _problem(self, error: openai.APIError) -> JudgeError:
        if isinstance(error, openai.APITimeoutError):
            return JudgeError(f"{self._url}: no reply in time", "timed_out", retry=True)
        if isinstance(error, openai.APIStatusError) and error.status_code != 200:
            code = error.status_code
            after = _seconds(error.response.headers.get("retry-after"))
            retry = code in _MAY_PASS or code >= 500
            return JudgeError(
                f"{self._url}: HTTP {code}: {error.message:.300}", retry=retry, retry_after_s=after
            )
        return JudgeError(f"{self._url}: {type(error).__name__}: {error.message:.300}", retry=True)

    def _read(self, raw: Any) -> Reply:
        try:
            choice = raw.choices[0]
            refusal = getattr(choice.message, "refusal", None)
            usage = raw.usage
            text = choice.message.content
            if not isinstance(text, str | None):
                raise TypeError(f"content is {type(text).__name__}")
            return Reply(
                text=text or "",
                finish_reason=choice.finish_reason or "stop",
                logprobs=_logprobs(choice),
                prompt_tokens=int(usage.prompt_tokens) if usage else 0,
                completion_tokens=int(usage.completion_tokens) if usage else 0,
                refusal=refusal,
            )
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise JudgeError(
                f"{self._url}: the reply is no chat completion: {raw!r:.200} ({error})", retry=True
            ) from error


def _logprobs(choice: Any) -> tuple[TokenLogprob, ...] | None:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if content is None:
        return None
    return tuple(
        TokenLogprob(
            t.token, float(t.logprob), tuple((o.token, float(o.logprob)) for o in t.top_logprobs or ())
        )
        for t in content
    )


def _seconds(text: str | None) -> float:
    """Return a Retry-After header's seconds; 0 where there is none, or it is a date."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
