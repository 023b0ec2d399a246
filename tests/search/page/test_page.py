"""The page in a real browser: Debian's Chromium, driven by Playwright, against a real server."""

import dataclasses
import shutil
import threading

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("playwright.sync_api")
import uvicorn
from playwright.sync_api import sync_playwright

from mova_jax.data.images import encode_jpeg
from mova_jax.search.page.app import make_app
from mova_jax.search.page.playable import PlayableFiles
from mova_jax.search.progress import Indexing
from mova_jax.search.query import Searcher
from mova_jax.search.service import Library
from tests.clips import numbered, write_video
from tests.search.made import MadeIndex, MadeModel, MadeScan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on the PATH")

PATIENCE = 120_000  # ms, for busy machines
HOSTILE = "<img src=x onerror='document.title=1'>.webm"
VP9 = {"codec": "libvpx-vp9", "rate": 1, "encoder": {"options": {"auto-alt-ref": "0"}}}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Videos of 20 s: one that browsers play, one in AVI, and one that is none."""
    folder = tmp_path_factory.mktemp("films")
    files = [
        write_video(folder / HOSTILE, numbered(20), **VP9),
        write_video(folder / "film.avi", numbered(20), **VP9),
        folder / "broken.mp4",
    ]
    files[2].write_bytes(b"no video")
    index = MadeIndex((20, 20, 20), 16)
    for i, file in enumerate(files):
        index.entries[i] = dataclasses.replace(index.entries[i], source=str(file))
    return Library(Searcher(MadeModel(index), index, MadeScan()))


@pytest.fixture(scope="module")
def address(library):
    with PlayableFiles() as files:
        config = uvicorn.Config(make_app(library, files), port=0, log_level="error")
        server, socket = uvicorn.Server(config), config.bind_socket()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, whose errors and refused contents fail a test."""
    page, errors = browser.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(error))
    page.on("console", lambda note: "Security Policy" in note.text and errors.append(note.text))
    page.add_init_script(
        "globalThis.begun = []; for (const event of ['seeked', 'playing'])"
        " document.addEventListener(event, ({ target }) => begun.push(target.currentTime), true);"
    )
    page.goto(address)
    yield page
    page.close()
    assert not errors


def ask(page, text="v0f3 is here. v0f12 is there."):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.wait_for_function("() => /best, in/.test(document.getElementById('message').textContent)")
    return page.locator("#answers > li")


def wait_for_second(page, second):
    """Until a video began to play at this second, however long ago: the machine may be busy."""
    page.wait_for_function(
        "second => document.querySelector('video')?.played.length"
        " && begun.some((start) => start > second - 0.2 && start < second + 3)",
        arg=second,
    )


def test_a_question_is_typed_and_a_click_plays_from_there(page):
    answers = ask(page)
    assert answers.count() == 3 and page.locator("#message").text_content().startswith("3 best")
    assert answers.nth(0).locator("h2").text_content() == f"1{HOSTILE}"  # as text
    assert page.locator("#answers img[onerror]").count() == 0 and page.title() != "1"
    best = answers.nth(0).locator(".heat .best").nth(1)
    assert best.evaluate("node => node.style.left") == "57.5%"  # 11.5 of 20 s
    answers.nth(0).locator("button.play").nth(1).click()
    wait_for_second(page, 11.5)
    area = answers.nth(0).locator(".heat").nth(0)
    area.click(position={"x": area.bounding_box()["width"] * 0.25, "y": 5})
    wait_for_second(page, 5)


def test_keys(page):
    ask(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert "current" in page.locator("#answers > li").nth(1).get_attribute("class")
    page.keyboard.press("k")
    page.keyboard.press("2")
    wait_for_second(page, 11.5)
    page.keyboard.press("Escape")
    assert page.locator("video").count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


def test_other_containers_play_and_what_is_no_video_shows_pictures(page):
    answers = ask(page, "v1f7 is here.")
    assert "film.avi" in answers.nth(0).locator("h2").text_content()
    answers.nth(0).locator("button.play").click()
    wait_for_second(page, 6.5)
    assert "playable/v001" in page.locator("video").get_attribute("src")
    ask(page, "v2f7 is here.").nth(0).locator("button.play").click()
    page.wait_for_selector(".pictures .player p")
    assert page.locator("video").count() == 0


def test_a_picture_is_chosen_dropped_and_pasted(page):
    picture = encode_jpeg(np.full((48, 64, 3), 1, np.uint8))
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files({"name": "<b>x</b>.jpg", "mimeType": "image/jpeg", "buffer": picture})
    first = page.locator("#answers > li").nth(0)
    first.wait_for()
    assert "film.avi" in first.locator("h2").text_content()
    assert page.locator("#like span").text_content() == "<b>x</b>.jpg"
    page.wait_for_selector("#like canvas", state="visible")
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        ask(page, "v0f3 is here.")
        assert page.locator("#like").is_hidden()
        page.evaluate(
            "([event, holder, bytes]) => { const data = new DataTransfer();"
            " data.items.add(new File([new Uint8Array(bytes)], 'y.jpg', {type: 'image/jpeg'}));"
            " document.dispatchEvent(Object.assign(new Event(event, {bubbles: true}),"
            " {[holder]: data})); }",
            [event, holder, list(picture)],
        )
        page.wait_for_function(
            "() => document.querySelector('h2').textContent.includes('film.avi')"
        )
        assert page.locator("#like").is_visible()


def test_the_page_shows_how_far_indexing_is(page, library):
    page.wait_for_function(
        "() => document.getElementById('status').textContent.startsWith('3 videos')"
    )
    assert page.locator("#indexing").is_hidden()
    library.indexing = lambda: Indexing(30, 120)
    try:
        page.reload()
        page.wait_for_selector("#indexing", state="visible")
        assert "indexing 30 of 120 files" in page.locator("#status").text_content()
        assert page.locator("#indexing").evaluate("bar => bar.position") == 0.25
    finally:
        library.indexing = lambda: None


def test_dark_and_phone_width(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.set_viewport_size({"width": 360, "height": 640})
    ask(page)
    for selector in ("#answers > li", "#text", "button.play", "canvas"):
        box = page.locator(selector).last.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, selector
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_questions_at_once_are_answered(page):
    statuses = page.evaluate(
        "Promise.all(Array.from({length: 32}, (_, i) => fetch('api/search', {method: 'POST',"
        " headers: {'Content-Type': 'application/json'},"
        " body: JSON.stringify({text: `v0f${i % 20}`})}).then((reply) => reply.status)))"
    )
    assert statuses == [200] * 32
