"""Why a request is not answered, in the form in which OpenAI's server says it."""

from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import JSONResponse

from alpaca_jax.support.errors import UserError


class Refusal(Exception):
    """A request that is not answered.

    Args:
      status: of HTTP.
      kind: OpenAI's `type` of the error.
      message: for a person.
      code: OpenAI's code of the error, if it has one.
      param: the field that is at fault, if it is one.
      retry_after: seconds after which the same request may be answered.
      close: whether the connection is of no further use.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        retry_after: int | None = None,
        close: bool = False,
    ):
        super().__init__(message)
        self.status, self.kind, self.message, self.code, self.param = status, kind, message, code, param
        self.retry_after, self.close = retry_after, close

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers())

    def headers(self) -> dict[str, str]:
        """What is said in the head of the answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="alpaca_jax", charset="UTF-8"'
        return headers | ({"Connection": "close"} if self.close else {})


def answer_refusal(request: Request, error: Exception) -> JSONResponse:
    """What an application answers where a route raises a `Refusal`."""
    assert isinstance(error, Refusal)
    return error.response()


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """The refusal of a request that its sender must change."""
    return Refusal(400, "invalid_request_error", message, code, param)


def refuse_as_invalid(error: UserError, names: dict[str, str] | None = None) -> NoReturn:
    """Raises the refusal for something that the sender of a request got wrong.

    Args:
      error: with a flag, a place or a text as its subject.
      names: the request's own name of a flag, where it is another.
    """
    flag = error.subject.removeprefix("--")
    param = (names or {}).get(flag, flag) if error.subject.startswith("--") else None
    remedy = f"{error.remedy[:1].upper()}{error.remedy[1:]}."
    message = f"{param or error.subject}: expected {error.expected}; found {error.found}. {remedy}"
    raise invalid(" ".join(message.split()), param) from error
