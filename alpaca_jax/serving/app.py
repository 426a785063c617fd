"""The web application: routes, what guards them, and the demo."""

import contextlib
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from alpaca_jax.serving.api import make_router
from alpaca_jax.serving.demo import mount_demo
from alpaca_jax.serving.guard import Guard
from alpaca_jax.serving.refusal import Refusal, answer_refusal
from alpaca_jax.serving.service import Service


def create_app(service: Service, feedback: Path, *, key: str | None = None, hosts: Collection[str] = ()) -> FastAPI:
    """The application.

    Args:
      service: what answers.
      feedback: the file of the demo's flags and votes.
      key: that requests must carry; None for none.
      hosts: names that the server has besides those of the loopback.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close_filter()

    # No page of documentation, which would fetch its scripts from elsewhere.
    app = FastAPI(title="alpaca_jax", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics, key=key, hosts=hosts)
    app.add_exception_handler(Refusal, answer_refusal)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.include_router(make_router(service))
    mount_demo(app, service, feedback)
    return app


def _refuse_http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    words = f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path[:100]}"
    refusal = Refusal(error.status_code, "invalid_request_error", words)
    return JSONResponse(refusal.body(), error.status_code, error.headers)
