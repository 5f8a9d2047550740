"""What crosses the wire: the part of OpenAI's chat completions that the server speaks, and its errors."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from truing.rollout.asks import Answer
from truing.types import Message

_ROLES = {"developer": "system"}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Wire):
    """A part of a message; only text is spoken here."""

    type: Literal["text"]
    text: str


class ChatMessage(_Wire):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None

    def message(self) -> Message:
        """Return it as the chat template reads it."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return Message(_ROLES.get(self.role, self.role), text)


class ChatRequest(_Wire):
    """A request for completions. What the server cannot do is an error, never ignored."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0)
    n: int = Field(1, ge=1, le=128)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: Literal[False] | None = False
    frequency_penalty: Literal[0] | None = 0
    presence_penalty: Literal[0] | None = 0
    user: str | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs does nothing without logprobs: set logprobs = true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens and max_completion_tokens are one thing: give one of them")
        if len(self.stop_texts()) > 4 or "" in self.stop_texts():
            raise ValueError("stop takes up to four texts, none of them empty")
        return self

    def stop_texts(self) -> tuple[str, ...]:
        """Return the texts before which a completion ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models_body(name: str) -> dict[str, Any]:
    """Return the list of served models: one."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "truing"}]}


def completion_body(
    request: ChatRequest, answers: list[Answer], prompt_tokens: int, tokenizer: Any
) -> dict[str, Any]:
    """Return the answers as a chat completion."""
    drawn = sum(a.num_drawn for a in answers)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": a.text, "refusal": None},
                "finish_reason": a.finish_reason,
                "logprobs": _logprobs(a, tokenizer) if request.logprobs else None,
            }
            for i, a in enumerate(answers)
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": prompt_tokens + drawn,
        },
    }


def _logprobs(answer: Answer, tokenizer: Any) -> dict[str, Any]:
    content = []
    for i, (token, logprob) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        top = [_token(tokenizer, t, x) for t, x in (answer.top[i] if answer.top else ())]
        content.append({**_token(tokenizer, token, logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    whole = "\ufffd" not in text  # a token may hold part of a character only
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode()) if whole else None}
