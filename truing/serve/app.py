"""The HTTP endpoints: /v1/models, /v1/chat/completions and /health."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from truing.errors import ConfigError, DataError, ModelError
from truing.serve.address import LOOPBACK_NAMES
from truing.serve.engine import Busy, Engine
from truing.serve.protocol import ChatRequest, completion_body, error_body, models_body

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, **about: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, error_body(message, **about)


def create_app(engine: Engine, *, token: str | None = None) -> FastAPI:
    """Return the application of one model.

    Args:
        engine: what answers.
        token: what a request must bear; without one, only requests to a loopback name are answered, so
            that a web page that resolves its own name to this machine reads nothing.
    """
    app = FastAPI(title="truing serve", docs_url=None, redoc_url=None, openapi_url=None)
    if token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_NAMES))
    _errors(app)

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            message = "this server needs its token: Authorization: Bearer TOKEN"
            raise Refused(401, message, kind="authentication_error", code="invalid_api_key")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models", dependencies=[Depends(check)])
    async def models() -> dict[str, Any]:
        return models_body(engine.name)

    @app.post("/v1/chat/completions", dependencies=[Depends(check)])
    async def chat(body: ChatRequest) -> dict[str, Any]:
        return await _complete(engine, body)

    return app


async def _complete(engine: Engine, body: ChatRequest) -> dict[str, Any]:
    if body.model != engine.name:
        about = {"param": "model", "code": "model_not_found"}
        raise Refused(404, f"no model '{body.model}' here: this server has '{engine.name}'", **about)
    try:
        ask, future = engine.ask(
            [m.message() for m in body.messages],
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_tokens or body.max_completion_tokens,
            seed=body.seed,
            num_samples=body.n,
            stop_texts=body.stop_texts(),
            num_top=body.top_logprobs or 0,
        )
    except ModelError as error:
        raise Refused(400, str(error), param="messages", code="context_length_exceeded") from error
    except (ConfigError, DataError) as error:
        raise Refused(400, str(error)) from error
    except Busy as error:
        raise Refused(429, str(error), kind="rate_limit_error", code="busy") from error
    try:
        answers = await asyncio.wrap_future(future)
    except Busy as error:
        raise Refused(503, str(error), kind="server_error") from error
    return completion_body(body, answers, len(ask.prompt), engine.tokenizer)


def _errors(app: FastAPI) -> None:
    """Give every error the shape that OpenAI's clients read."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        key = ".".join(str(x) for x in first["loc"] if x != "body") or None
        return JSONResponse(error_body(f"{key or 'request'}: {first['msg']}", param=key), 400)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(error_body(f"{type(error).__name__}: {error}", kind="server_error"), 500)
