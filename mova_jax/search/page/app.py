"""The page: a small web application over a `Searcher`, for one machine and the people at it.

    app = make_app(Library(searcher, open_again), files)
    uvicorn.run(app, host="127.0.0.1", port=8000)

    GET  /                 the page; /static/NAME its style and its script
    POST /api/search       {"text", "top", "in", "after", "before", "longer", "shorter"} -> answers
    POST /api/like?top=&in=...   a picture or a small video as the body -> answers
    GET  /api/status       how much there is to search, and how far indexing is
    GET  /video/ID         the file of a video of the index, also by byte ranges
    GET  /playable/ID      the same in a container that browsers play, where its codec allows
    GET  /thumbs/ID        its strip of pictures

Files are reached by the id of an entry only, never by a path. `guard.Guard` decides which requests
are answered at all. All work of the device is done by one thread, in the order in which it was
asked; `WAITING` questions may wait.
"""

import asyncio
import json
import mimetypes
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from mova_jax.data.annotations.videos import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mova_jax.data.ingest.video_reader import DecodeError
from mova_jax.search.filters import Filter, QueryError
from mova_jax.search.page.guard import Guard
from mova_jax.search.page.playable import PlayableFiles
from mova_jax.search.page.upload import frames_of, receive
from mova_jax.search.query import Answer
from mova_jax.search.service import Library

WAITING = 64  # questions that wait for the device at most; more are refused for the moment
MOST_ANSWERS = 100
UPLOADS = 4  # files that are received and decoded at a time
LARGEST_BODY = 2**16  # bytes of a question
HEAT_COLUMNS = 240  # of a timeline
SILENCE = "Sound-Left-Out"  # header: why a file that is played has no sound
STATIC = Path(__file__).parent / "static"
SHOWN = (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)  # an index may name any file; others are not sent
FILES = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def make_app(library: Library, files: PlayableFiles, hosts: tuple[str, ...] = ()) -> Starlette:
    """The application.

    Args:
        library: to search.
        files: makes the copies that browsers can play.
        hosts: names of this machine under which the page may be opened, besides localhost.
    """
    routes = [
        Route("/", _page),
        Route("/static/{name}", _static),
        Route("/api/search", _search, methods=["POST"]),
        Route("/api/like", _like, methods=["POST"]),
        Route("/api/status", _status),
        Route("/video/{id}", _video),
        Route("/playable/{id}", _playable),
        Route("/thumbs/{id}", _thumbs),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _gone},
    )
    app.state.library, app.state.files = library, files
    app.state.uploads = asyncio.Semaphore(UPLOADS)
    return app


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        return _error(404, "there is no such file")
    return FileResponse(STATIC / name, media_type=FILES[name])


async def _status(request: Request) -> Response:
    library: Library = request.app.state.library
    await library.refresh()
    entries, indexing = library.index.entries, library.indexing()
    return JSONResponse(
        {
            "videos": len(entries),
            "seconds": round(sum(entry.duration for entry in entries)),
            "newest": max((entry.added for entry in entries), default=""),
            "missing": await library.missing(),
            "indexing": indexing and indexing._asdict(),
            "warming_up": library.warming_up,
            "waiting": library.waiting,
        }
    )


async def _search(request: Request) -> Response:
    library: Library = request.app.state.library
    if refused := _refused(library, request, "application/json"):
        return refused
    try:
        text, top, where = _question(await _body(request))
        begun = time.monotonic()
        answers = await library.search(text, top, where)
    except QueryError as error:
        return _error(400, str(error))
    return _answers(answers, begun)


async def _like(request: Request) -> Response:
    library, uploads = request.app.state.library, request.app.state.uploads
    # No form of another page can send this type without being asked first.
    if refused := _refused(library, request, "application/octet-stream"):
        return refused
    if uploads.locked():
        return _error(503, "too many files are sent at once; ask again in a moment")
    try:
        top, where = _conditions(dict(request.query_params))
        async with uploads:
            with tempfile.NamedTemporaryFile(prefix="mova_jax-question-") as file:
                await receive(request.stream(), file)
                frames = await asyncio.to_thread(frames_of, file.name, library.image_size)
        begun = time.monotonic()
        answers = await library.like(frames, top, where)
    except QueryError as error:
        return _error(400, str(error))
    return _answers(answers, begun)


def _refused(library: Library, request: Request, expected: str) -> Response | None:
    """Why a question is not read at all; None when it is."""
    if request.headers.get("content-type", "").partition(";")[0] != expected:
        return _error(415, f"expected a question as {expected}")
    if library.waiting >= WAITING:
        return _error(503, "too many questions wait; ask again in a moment")
    return None


def _answers(answers: Sequence[Answer], begun: float) -> Response:
    seconds = round(time.monotonic() - begun, 3)
    return JSONResponse({"answers": [_answer(answer) for answer in answers], "seconds": seconds})


async def _body(request: Request) -> bytes:
    found = b""
    async for chunk in request.stream():
        found += chunk
        if len(found) > LARGEST_BODY:
            raise QueryError(f"got a question of over {LARGEST_BODY} bytes; ask a shorter one")
    return found


def _question(body: bytes) -> tuple[str, int, Filter]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise QueryError("expected a question as JSON") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("text"), str):
        raise QueryError('expected a question such as {"text": "A dog runs."}')
    return asked["text"], *_conditions(asked)


def _conditions(asked: Mapping[str, Any]) -> tuple[int, Filter]:
    """The number of answers and the filter of a question; of a URL, the number is a text."""
    top = asked.get("top", 10)
    if isinstance(top, str) and top.isdecimal():
        top = int(top[:9])
    if type(top) is not int or not 1 <= top <= MOST_ANSWERS:
        raise QueryError(f"top: got {top!r}, expected a number from 1 to {MOST_ANSWERS}")
    names = {"in": "folder", "after": "after", "before": "before"}
    names |= {"longer": "longer", "shorter": "shorter"}
    conditions = {ours: asked.get(name, "") for name, ours in names.items()}
    if not all(isinstance(value, str) for value in conditions.values()):
        raise QueryError(f"expected texts for {', '.join(names)}")
    return top, Filter.parse(**conditions)


def _answer(answer: Answer) -> dict:
    entry = answer.entry
    path = Path(entry.source)
    return {
        "id": entry.id,
        "name": path.name,
        "folder": str(path.parent),
        "duration": entry.duration,
        "added": entry.added,
        "score": round(answer.score, 4),
        "copies": answer.other_paths,
        "moments": [
            {
                "text": moment.text,
                "start": round(moment.start, 2),
                "end": round(moment.end, 2),
                "heat": columns(moment.heat),
            }
            for moment in answer.moments
        ],
    }


def columns(heat: np.ndarray) -> list[float]:
    """The cosines of a video's frames as at most `HEAT_COLUMNS` numbers, each the highest."""
    count = min(len(heat), HEAT_COLUMNS)
    starts = np.arange(count) * len(heat) // count
    return [round(float(x), 3) for x in np.maximum.reduceat(heat, starts)]


async def _video(request: Request) -> Response:
    path = _source(request)
    kind = mimetypes.guess_type(path)[0] or ""
    kind = kind if kind.startswith(("video/", "image/")) else "application/octet-stream"
    return FileResponse(path, media_type=kind)


async def _playable(request: Request) -> Response:
    source, files = _source(request), request.app.state.files
    try:
        file = await asyncio.to_thread(files.file, request.path_params["id"], source)
    except DecodeError as error:
        return _error(415, str(error))
    headers = {SILENCE: file.silence} if file.silence else None
    return FileResponse(file.path, media_type=f"video/{file.path.suffix[1:]}", headers=headers)


def _source(request: Request) -> str:
    """The path of the video that a request names by its id; of its copies, one that is there."""
    entry = request.app.state.library.entry(request.path_params["id"])
    paths = [Path(file.path) for file in entry.files] if entry else []
    shown = [path for path in paths if path.suffix.lower() in SHOWN]
    if not shown:
        raise HTTPException(404, "the index has no such video")
    for path in shown:
        if path.is_file():
            return str(path)
    raise HTTPException(404, "the file was moved or deleted; run python -m mova_jax.embed again")


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return _error(400, "the question was not sent to its end")


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


async def _thumbs(request: Request) -> Response:
    library: Library = request.app.state.library
    entry = library.entry(request.path_params["id"])
    path = entry and library.index.thumbnails(entry.id)
    if path is None or not Path(path).is_file():
        return _error(404, "there are no pictures of this video")
    return FileResponse(path, media_type="image/jpeg")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
