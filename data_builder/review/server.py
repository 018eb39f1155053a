"""The page over HTTP: routes to `Answers`, images, and the static files."""

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
from data_builder.review.api import Answers
from data_builder.review.guard import Guard

STATIC = Path(__file__).with_name("static")
_KINDS = {".js": "text/javascript", ".css": "text/css"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Server:
    """The app, and when it was last asked for something (`time.monotonic`)."""

    def __init__(
        self, answers: Answers, hosts: tuple[str, ...] = LOOPBACK, token: str = ""
    ) -> None:
        self._answers = answers
        self.asked = 0.0
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir()}
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/api/start", self._get(lambda q: answers.start(q("reader")))),
                Route(
                    "/api/study/{key}",
                    self._get(lambda q: answers.study(q("key"), q("reader"))),
                ),
                Route("/api/suggestions/{key}", self._get(lambda q: answers.suggestions(q("key")))),
                Route(
                    "/api/history/{key}",
                    self._get(lambda q: answers.history(q("key"), q("reader"))),
                ),
                Route("/api/said/{key}", self._get(lambda q: answers.said(q("key"), q("reader")))),
                Route("/api/disputes", self._get(lambda q: answers.disputes(q("reader")))),
                Route("/api/agreement", self._get(lambda q: answers.agreement(q("reader")))),
                Route("/api/image/{key}", self._image),
                Route("/api/hu/{key}", self._hounsfield),
                Route("/api/sheet/{key}", self._sheet),
                self._post("decide", lambda body: answers.decide(body, settles=False)),
                self._post("settle", lambda body: answers.decide(body, settles=True)),
                self._post("undo", lambda body: answers.undo(body, settles=False)),
                self._post("unsettle", lambda body: answers.undo(body, settles=True)),
                self._post("unblind", answers.unblind),
                self._post("probabilities", answers.probabilities),
                self._post("order", answers.order),
                self._post("export", lambda body: answers.export()),
                Route("/static/{name}", self._static),
            ],
            middleware=[Middleware(Guard, hosts=hosts, token=token)],
            exception_handlers={InputError: _bad_input, KeyError: _unknown, sqlite3.Error: _broken},
        )

    async def _page(self, request: Request) -> Response:
        self.asked = time.monotonic()
        return Response(self._files["index.html"], media_type="text/html")

    async def _static(self, request: Request) -> Response:
        """One of the page's own files, from memory: a page is made of some twenty."""
        name = request.path_params["name"]
        kind = _KINDS.get(Path(name).suffix, "text/html")
        if name not in self._files:
            return JSONResponse({"error": "there is no such file"}, 404)
        return Response(self._files[name], media_type=kind)

    def _get(self, answer: Callable[[Callable[[str], str]], Any]) -> Callable:
        """A route that answers with JSON; `answer` gets a way to look up what was asked."""

        def endpoint(request: Request) -> Response:
            self.asked = time.monotonic()

            def asked(name: str) -> str:
                found = request.path_params.get(name) or request.query_params.get(name, "")
                return str(found)

            return JSONResponse(answer(asked))

        return endpoint

    def _post(self, name: str, answer: Callable[[dict], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            self.asked = time.monotonic()
            try:
                body = json.loads(await request.body())
            except ValueError:
                body = None
            if not isinstance(body, dict):
                raise InputError("the request must be a JSON object")
            return JSONResponse(await run_in_threadpool(answer, body))

        return Route(f"/api/{name}", endpoint, methods=["POST"])

    def _image(self, request: Request) -> Response:
        self.asked = time.monotonic()
        path = self._answers.folder.image(request.path_params["key"])
        if path is None:
            return JSONResponse({"error": "its image is not there: run clean again"}, 404)
        return FileResponse(path)

    def _hounsfield(self, request: Request) -> Response:
        self.asked = time.monotonic()
        scans, key = self._answers.scans, request.path_params["key"]
        self._answers.folder.rows[key]
        hu = scans.hounsfield(key) if scans else None
        if hu is None:
            return JSONResponse({"error": "its DICOM is not there, or can't be read"}, 404)
        size = {"x-rows": str(hu.shape[0]), "x-columns": str(hu.shape[1])}
        return Response(hu.tobytes(), media_type="application/octet-stream", headers=size)

    def _sheet(self, request: Request) -> Response:
        self.asked = time.monotonic()
        study = request.path_params["key"]
        self._answers.folder.studies[study]
        return FileResponse(self._answers.sheets.of(study).path)


def _bad_input(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _broken(request: Request, error: Exception) -> Response:
    told = f"the folder can't be written ({error}): is its disk full?"
    return JSONResponse({"error": told}, 503)


def _unknown(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is no such slice or study in this folder"}, 404)
