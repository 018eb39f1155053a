"""Who may speak to the page: its own host name, its own origin, and the bearer of the token."""

import hmac
import ipaddress
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4_000_000  # bytes

_HEADERS = {
    # The page asks nothing of any other host, and no other page may frame or read it.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Checks every request before the app sees it.

    - The Host header must name this server, so that a page that rebinds its own name to this
      address gets nothing: one of `hosts`, or with a token any address in digits.
    - With a `token`, the first request must bring it in the URL; a cookie then stands for it.
    - A write must come from a page of this server (Origin), as JSON of bounded length.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], token: str = "") -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        answer: ASGIApp | None = self._refusal(scope, headers)
        if answer is None and self._token:
            answer = self._without_token(scope, headers)
        await (answer or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._known(host):
            return PlainTextResponse("this server does not go by that name", 403)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if urlsplit(headers.get("origin", "")).netloc != host:
            return PlainTextResponse("writes are taken from this server's own page only", 403)
        if headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return PlainTextResponse("writes are JSON", 415)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            return PlainTextResponse(f"a write has at most {LARGEST_BODY} bytes", 413)
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        if not self._token:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _without_token(
        self, scope: Scope, headers: Headers
    ) -> PlainTextResponse | RedirectResponse | None:
        port = (scope.get("server") or ("", 0))[1]
        name = f"review-{port}"
        cookie = cookie_parser(headers.get("cookie", "")).get(name, "")
        if hmac.compare_digest(cookie.encode(), self._token.encode()):
            return None
        query = scope.get("query_string", b"").decode("latin-1")
        given = parse_qs(query).get("token", [""])[0]
        if scope["method"] == "GET" and hmac.compare_digest(given.encode(), self._token.encode()):
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(name, self._token, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse("open the address that the command printed, with its token", 403)
