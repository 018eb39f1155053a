"""Admits requests to the page's own host name, from its own origin, with its token."""

import hmac
import ipaddress
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4_000_000  # bytes

_HEADERS = {
    # The page requests nothing from other hosts, and no other page may frame or read it.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Checks every request before the app sees it.

    - The Host header must be one of `hosts`, or with a token any IP address. Otherwise a foreign
      page could rebind its own name to this address (DNS rebinding).
    - With a `token`, the first request must have it in the URL, the others in a cookie.
    - A write must come from a page of this server (Origin), as JSON of at most LARGEST_BODY bytes.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], token: str = "") -> None:
        """Guards `app`; an empty `token` means that none is needed."""
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, by the app or with a refusal."""
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
        refusal: ASGIApp | None = self._refusal(scope, headers)
        if refusal is None and self._token:
            refusal = self._without_token(scope, headers)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            return PlainTextResponse(
                "unknown host name: open the address that the command printed", 403
            )
        if scope["method"] in ("GET", "HEAD"):
            return None
        if urlsplit(headers.get("origin", "")).netloc != host:
            return PlainTextResponse("writes are accepted from this server's own page only", 403)
        if headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return PlainTextResponse("writes must be JSON", 415)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            return PlainTextResponse(f"a write may have at most {LARGEST_BODY} bytes", 413)
        return None

    def _is_own(self, host: str) -> bool:
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
            redirect = RedirectResponse(scope["path"], 303)
            redirect.set_cookie(name, self._token, httponly=True, samesite="strict")
            return redirect
        return PlainTextResponse("open the address that the command printed, with its token", 403)
