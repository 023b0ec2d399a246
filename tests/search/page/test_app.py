"""The page as its requests see it: answers, files by ranges, and everything that is refused."""

import dataclasses
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from mova_jax.data.images import encode_ppm
from mova_jax.data.ingest import remux
from mova_jax.search.page import app as app_lib
from mova_jax.search.page import upload
from mova_jax.search.page.app import STATIC, columns, make_app
from mova_jax.search.page.playable import PlayableFiles
from mova_jax.search.progress import Indexing
from mova_jax.search.query import Searcher
from mova_jax.search.service import Library
from tests.clips import film, numbered, write_video
from tests.search.made import MadeIndex, MadeModel, MadeScan

HERE = "http://127.0.0.1:8000"
NAME = "<img src=x onerror=alert(1)>.mp4"


@pytest.fixture
def library(tmp_path):
    index = MadeIndex((5, 20, 300), 16)
    (tmp_path / NAME).write_bytes(bytes(range(200)))
    (tmp_path / "secret.txt").write_text("secret")
    sources = [tmp_path / NAME, tmp_path / "gone.mp4", tmp_path / "secret.txt"]
    for i, source in enumerate(sources):
        index.entries[i] = dataclasses.replace(index.entries[i], source=str(source))
    return Library(Searcher(MadeModel(index), index, MadeScan()))


@pytest.fixture
def client(library):
    with PlayableFiles() as files:
        app = make_app(library, files, ("films.lan",))
        with TestClient(app, base_url=HERE) as client:
            yield client


def test_a_question_is_answered(client):
    reply = client.post("/api/search", json={"text": "v0f3. v1f2.", "top": 2})
    first, second = reply.json()["answers"]
    assert (first["id"], first["name"]) == ("v000", NAME) and first["score"] > second["score"]
    assert [len(moment["heat"]) for moment in first["moments"]] == [5, 5]
    assert (first["moments"][0]["start"], first["moments"][0]["end"]) == (2.5, 3.5)
    assert reply.headers["content-type"] == "application/json"
    filtered = client.post("/api/search", json={"text": "v0f3", "longer": "10s"}).json()
    assert {answer["id"] for answer in filtered["answers"]} == {"v001", "v002"}


def test_heat_keeps_its_peaks():
    heat = [0.0] * 1000
    heat[503] = 0.9
    found = columns(np.array(heat))
    assert len(found) == 240 and max(found) == 0.9 and found.index(0.9) == 120


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"text": ""}, "got no text"),
        ({"text": "x" * 5001}, "5000 at most"),
        ({"text": "x" * 70_000}, "over 65536 bytes"),
        ({"text": 3}, "expected a question such as"),
        ([], "expected a question such as"),
        ({"text": "v0f0", "top": 1000}, "top: got 1000"),
        ({"text": "v0f0", "top": True}, "top: got True"),
        ({"text": "v0f0", "after": "soon"}, "after: got 'soon'"),
        ({"text": "v0f0", "in": ["/"]}, "expected texts"),
    ],
)
def test_questions_that_are_refused(client, question, message):
    reply = client.post("/api/search", json=question)
    assert reply.status_code == 400 and message in reply.json()["error"]


def test_a_question_is_json_of_this_page_only(client):
    body = json.dumps({"text": "v0f3"})
    types = {"text/plain": 415, "application/x-www-form-urlencoded": 415, "application/json": 200}
    for kind, status in types.items():
        reply = client.post("/api/search", content=body, headers={"Content-Type": kind})
        assert reply.status_code == status
    assert client.get("/api/search").status_code == 405
    for broken in ("{", "[" * 50_000):
        reply = client.post(
            "/api/search", content=broken, headers={"Content-Type": "application/json"}
        )
        assert reply.status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "films.lan"}, 200),
        ({"Host": "192.168.0.7:8000"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "[broken"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(client, headers, status):
    for path in ("/", "/api/status", "/video/v000"):
        reply = client.get(path, headers=headers)
        assert reply.status_code == status
        assert "script-src 'self'" in reply.headers["content-security-policy"]
        assert "'unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_files_are_sent_by_ranges(client):
    whole = client.get("/video/v000")
    assert whole.content == bytes(range(200)) and whole.headers["content-type"] == "video/mp4"
    part = client.get("/video/v000", headers={"Range": "bytes=50-59"})
    assert part.status_code == 206 and part.content == bytes(range(50, 60))
    assert part.headers["content-range"] == "bytes 50-59/200"
    assert client.get("/video/v000", headers={"Range": "bytes=500-"}).status_code == 416


def test_a_file_for_other_players_is_sent_in_another_container(library, client, tmp_path):
    library.index.entries[0] = dataclasses.replace(
        library.index.entries[0],
        source=str(write_video(tmp_path / "film.flv", numbered(20), codec="libx264")),
    )
    whole = client.get("/playable/v000")
    assert whole.status_code == 200 and whole.headers["content-type"] == "video/mp4"
    assert whole.content[4:8] == b"ftyp"
    part = client.get("/playable/v000", headers={"Range": "bytes=4-7"})
    assert part.status_code == 206 and part.content == b"ftyp"
    assert "sound-left-out" not in whole.headers
    (tmp_path / "film.flv").unlink()
    assert client.get("/playable/v000").status_code == 404


def test_sound_that_is_left_out_is_said(library, client, tmp_path, monkeypatch):
    monkeypatch.setattr(remux, "MOST_SOUND", 1)
    source = film(tmp_path / "film.mkv", sound="ac3")
    entry = dataclasses.replace(library.index.entries[0], source=str(source))
    library.index.entries[0] = entry
    headers = client.get("/playable/v000", headers={"Range": "bytes=0-0"}).headers
    assert headers["sound-left-out"].startswith("its sound (ac3) would have to be encoded")


@pytest.mark.parametrize(
    "path",
    [
        "/playable/v001",
        "/playable/v002",
        "/playable/..%2F..%2Fetc%2Fpasswd",
        "/video/v001",  # its file is gone
        "/video/v002",  # no video
        "/video/v999",
        "/video/..%2F..%2Fetc%2Fpasswd",
        "/video//etc/passwd",
        "/static/..%2Fapp.py",
        "/static/index.html",
        "/thumbs/v000",
        "/thumbs/..%2Findex.json",
        "/app.py",
    ],
)
def test_files_are_reached_by_id_only(client, path):
    reply = client.get(path)
    assert reply.status_code == 404 and "secret" not in reply.text


def test_of_a_video_s_copies_one_that_is_there_is_sent(library, client, tmp_path):
    source = tmp_path / "a.mp4"
    source.write_bytes(b"copy")
    gone = dataclasses.replace(library.index.entries[1], others=(str(source),))
    library.index.entries[1] = gone
    assert client.get("/video/v001").content == b"copy"


def test_a_file_that_would_have_to_be_encoded_again_is_not_sent(client):
    reply = client.get("/playable/v000")  # of bytes that are no video
    assert reply.status_code == 415 and "cannot be repackaged" in reply.json()["error"]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<style|style=|<script>| on\w+=|https?://", page.text)
    names = re.findall(r'(?:src|href)="static/([^"]+)"', page.text)
    assert sorted(names) == ["icon.svg", "page.js", "style.css"]
    for name in names:
        reply = client.get(f"/static/{name}")
        assert reply.status_code == 200 and "://" not in reply.text.replace(
            "http://www.w3.org/2000/svg", ""
        )
    script = (STATIC / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


BYTES = {"Content-Type": "application/octet-stream"}


def test_a_picture_and_a_video_are_questions(library, client, tmp_path):
    grey = np.full((16, 16, 3), 1, np.uint8)
    for file in (
        encode_ppm(grey),
        write_video(tmp_path / "a.avi", [grey] * 20, codec="ffv1", pix_fmt="bgr0").read_bytes(),
    ):
        reply = client.post("/api/like?top=2&longer=", content=file, headers=BYTES)
        first, _ = reply.json()["answers"]
        assert first["id"] == "v001" and first["moments"][0]["text"] == "like your file"
    only = client.post("/api/like?longer=1m", content=file, headers=BYTES).json()["answers"]
    assert [answer["id"] for answer in only] == ["v002"]


@pytest.mark.parametrize(
    ("query", "content", "headers", "status", "message"),
    [
        ("", b"text", BYTES, 400, "expected a picture or a video"),
        ("", b"", BYTES, 400, "got an empty file"),
        ("", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", BYTES, 400, "expected a picture"),
        ("", b"x" * 3000, BYTES, 400, "got a file of over 0 MB"),
        ("?top=x", b"x", BYTES, 400, "top: got 'x'"),
        ("", b"x", {"Content-Type": "text/plain"}, 415, "application/octet-stream"),
        ("", b"x", BYTES | {"Origin": "http://evil.example"}, 403, "other pages"),
    ],
)
def test_files_that_are_no_question(client, monkeypatch, query, content, headers, status, message):
    monkeypatch.setattr(upload, "LARGEST", 2000)
    reply = client.post(f"/api/like{query}", content=content, headers=headers)
    assert reply.status_code == status and message in reply.json()["error"]


def test_the_status_says_what_runs_and_what_is_gone(library, client):
    found = client.get("/api/status").json()
    assert (found["videos"], found["missing"], found["indexing"]) == (3, 1, None)
    library.indexing = lambda: Indexing(3, 10)
    assert client.get("/api/status").json()["indexing"] == {"done": 3, "files": 10}


def test_questions_are_asked_ahead_and_people_come_first(library, client, monkeypatch):
    asked, go = [], threading.Event()
    search = library._searcher.search

    def slow(text, *args):
        asked.append(text)
        go.wait(10)
        if text == "Something moves.":
            raise ValueError("warming up is no place for errors")
        return search("v1f1", *args)

    monkeypatch.setattr(library._searcher, "search", slow)
    library.warm_up()
    assert client.get("/api/status").json()["warming_up"]
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(client.post, "/api/search", json={"text": "mine"})
        while not library.waiting:
            time.sleep(0.01)
        go.set()
        assert reply.result().status_code == 200
    library._thread.submit(int).result()
    while library.warming_up:
        time.sleep(0.01)
    assert asked[:2] == ["Something moves.", "mine"]
    assert asked[3].count(".") == 4 and asked[-1].sentences == ("like a picture",)


def test_new_videos_are_seen(library, client):
    assert client.get("/api/status").json()["videos"] == 3
    grown = MadeIndex((5, 20, 300, 7), 16)
    library._reopen = lambda: grown
    assert client.get("/api/status").json()["videos"] == 4
    assert client.get("/api/status").json()["seconds"] == 332


def test_many_questions_at_once_are_answered_one_after_the_other(library, client, monkeypatch):
    busy, most = [], []
    search = library._searcher.search

    def slow(*args):
        busy.append(threading.get_ident())
        most.append(len(busy))
        time.sleep(0.005)
        busy.pop()
        return search(*args)

    monkeypatch.setattr(library._searcher, "search", slow)

    def ask(number):
        return client.post("/api/search", json={"text": f"v1f{number % 20}", "top": 1})

    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(ask, range(32)))
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["answers"][0]["id"] for reply in replies} == {"v001"}
    assert len(most) == 32 and max(most) == 1
    monkeypatch.setattr(app_lib, "WAITING", 0)
    assert ask(0).status_code == 503
