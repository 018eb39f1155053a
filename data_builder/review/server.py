"""Serves the page over HTTP: the requests of ReviewApi, images, and the static files."""

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from data_builder.errors import InputError
from data_builder.review.api import Body, ReviewApi
from data_builder.review.guard import Guard

STATIC = Path(__file__).with_name("static")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}

_Parameter = Callable[[str], str]
"""Name of a parameter in the path or query -> its value, '' where it is missing."""


class Server:
    """The app, and the time of its last request (`time.monotonic`)."""

    def __init__(
        self, review: ReviewApi, hosts: tuple[str, ...] = LOOPBACK, token: str = ""
    ) -> None:
        """Makes the app; `hosts` and `token` are as in Guard."""
        self._review = review
        self.last_request = 0.0
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir()}
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                self._get("start", lambda q: review.start(q("reader"))),
                self._get("study/{key}", lambda q: review.study(q("key"), q("reader"))),
                self._get("suggestions/{key}", lambda q: review.suggestions(q("key"))),
                self._get("history/{key}", lambda q: review.history(q("key"), q("reader"))),
                self._get("readings/{key}", lambda q: review.readings(q("key"), q("reader"))),
                self._get("disputes", lambda q: review.disputes(q("reader"))),
                self._get("agreement", lambda q: review.agreement(q("reader"))),
                Route("/api/image/{key}", self._image),
                Route("/api/hu/{key}", self._hounsfield),
                Route("/api/sheet/{key}", self._sheet),
                self._post("decide", lambda body: review.decide(body, settles=False)),
                self._post("settle", lambda body: review.decide(body, settles=True)),
                self._post("undo", lambda body: review.undo(body, settles=False)),
                self._post("unsettle", lambda body: review.undo(body, settles=True)),
                self._post("unblind", review.unblind),
                self._post("probabilities", review.probabilities),
                self._post("order", review.order),
                self._post("export", lambda body: review.export()),
                Route("/static/{name}", self._static),
            ],
            middleware=[Middleware(Guard, hosts=hosts, token=token)],
            exception_handlers={
                InputError: _bad_input,
                KeyError: _unknown_target,
                sqlite3.Error: _not_stored,
            },
        )

    async def _page(self, request: Request) -> Response:
        self.last_request = time.monotonic()
        return Response(self._files["index.html"], media_type="text/html")

    async def _static(self, request: Request) -> Response:
        """Answers with one of the page's own files, from memory: a page needs some twenty."""
        name = request.path_params["name"]
        media_type = _MEDIA_TYPES.get(Path(name).suffix, "text/html")
        if name not in self._files:
            return JSONResponse({"error": "there is no such file"}, 404)
        return Response(self._files[name], media_type=media_type)

    def _get(self, path: str, answer: Callable[[_Parameter], Any]) -> Route:
        """A route that answers with JSON."""

        def endpoint(request: Request) -> Response:
            self.last_request = time.monotonic()

            def parameter(name: str) -> str:
                return str(request.path_params.get(name) or request.query_params.get(name, ""))

            return JSONResponse(answer(parameter))

        return Route(f"/api/{path}", endpoint)

    def _post(self, name: str, answer: Callable[[Body], Any]) -> Route:
        """A route that takes a JSON object and answers with JSON."""

        async def endpoint(request: Request) -> Response:
            self.last_request = time.monotonic()
            try:
                body = json.loads(await request.body())
            except ValueError:
                body = None
            if not isinstance(body, dict):
                raise InputError("the request must be a JSON object")
            return JSONResponse(await run_in_threadpool(answer, body))

        return Route(f"/api/{name}", endpoint, methods=["POST"])

    def _image(self, request: Request) -> Response:
        self.last_request = time.monotonic()
        path = self._review.folder.image(request.path_params["key"])
        if path is None:
            return JSONResponse({"error": "the image is missing: run clean again"}, 404)
        return FileResponse(path)

    def _hounsfield(self, request: Request) -> Response:
        self.last_request = time.monotonic()
        scans, key = self._review.scans, request.path_params["key"]
        hu = scans.hounsfield(key) if scans else None
        if hu is None:
            return JSONResponse({"error": "the DICOM file is missing or unreadable"}, 404)
        size = {"x-rows": str(hu.shape[0]), "x-columns": str(hu.shape[1])}
        return Response(hu.tobytes(), media_type="application/octet-stream", headers=size)

    def _sheet(self, request: Request) -> Response:
        self.last_request = time.monotonic()
        return FileResponse(self._review.sheets.of(request.path_params["key"]).path)


def _bad_input(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _not_stored(request: Request, error: Exception) -> Response:
    message = f"the folder can't be written ({error}): is its disk full?"
    return JSONResponse({"error": message}, 503)


def _unknown_target(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is no such slice or study in this folder"}, 404)
