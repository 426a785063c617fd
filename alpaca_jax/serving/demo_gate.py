"""What of Gradio is let out: the paths that the demo's page needs, with headers that keep the page to this host."""

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio also takes uploads, hands out files, edits and profiles itself; the page does none of this.
_EXACT = {
    "/",
    "/config",
    "/favicon.ico",
    "/robots.txt",
    "/theme.css",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/info",
    "/gradio_api/startup-events",
    "/gradio_api/theme.css",
}
_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")

# Even a hole in the page could not send what is typed to another machine. Gradio writes scripts and styles into the
# page itself.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """Lets requests for known paths through, to which it adds headers, and refuses all others.

    Args:
      app: the page.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it.

        Raises:
          HTTPException: 404.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Mounted below another app, the path still begins with where it is mounted.
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        if path not in _EXACT and not path.startswith(_BELOW):
            raise HTTPException(404)  # which the app around it answers as it answers others

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
