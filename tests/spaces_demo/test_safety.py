"""Attacks on the running Space: each is answered with what is allowed, and the Space serves as before.

Where Python's client would refuse by itself, the request is posted as it stands: anybody can.
"""

from __future__ import annotations

import http.server
import io
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from compact_hf.scenes.source import SceneSource
from compact_hf.testing.gemini import GeminiServer
from tests import preforked
from tests.spaces_demo.conftest import REPOSITORY, VISITORS_KEY, Gate, Running, error_of, uploaded

QUESTION = "What color is the cat?"
SCENE, OWN = "A drawn scene and the embedded teacher", "My own picture and Gemini"
FILE = {"_type": "gradio.FileData"}


# Hands a key and a text to a page's function as Gradio does; prints what the function got and what the session keeps.
_SESSION = """
import asyncio, json, os
import gradio as gr
from gradio.state_holder import SessionState
from validation import ImageInput, KeyTextbox

with gr.Blocks() as page:
    inputs = [KeyTextbox(), gr.Textbox(), ImageInput()]
    gr.Button().click(lambda *_: None, inputs, None)
state = SessionState(page)
(function,) = page.fns.values()
print(json.dumps(asyncio.run(page.preprocess_data(function, [os.environ["KEY"], "kept", None], state))))
print(json.dumps(repr(list(state.components))))
"""


@pytest.fixture(autouse=True)
def still_serves(space: Running) -> Iterator[None]:
    """After every attack the queue takes the next visitor to the tab's own function."""
    yield
    while "Queue is full" in (said := error_of(space.call("ask", None, QUESTION))):
        time.sleep(0.2)  # what one test has put there is worked off; pytest's time-out ends this otherwise
    assert "There is no picture" in said


@pytest.fixture(scope="module", autouse=True)
def still_answers(space: Running) -> Iterator[None]:
    """After all of them the models answer, and the data are shown."""
    yield
    assert "event: complete" in space.call("ask", uploaded(space, _scene()), QUESTION).text
    assert "event: complete" in space.call("explore", "3", "counting", 1).text


@cache
def _scene() -> bytes:
    return SceneSource(0, 4).read("scene:3")


def _encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _bomb(edge: int) -> bytes:
    """A PNG of a few kilobytes that says it has `edge` x `edge` pixels, and has them."""
    rows = zlib.compressobj(9)
    line = bytes(1 + edge // 8)
    packed = b"".join([*(rows.compress(line) for _ in range(edge)), rows.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = edge.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _is_clean(said: str, space: Running) -> bool:
    hidden = (str(space.folder), str(REPOSITORY), "Traceback", "site-packages", VISITORS_KEY)
    return not any(one in said for one in hidden)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(_bomb(8_000), "8000 x 8000 pixels; at most 40 million", id="a decompression bomb"),
        pytest.param(b"<html><script>alert(1)</script>", "not a picture", id="a page"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture", id="a drawing that runs scripts"),
        pytest.param(_scene()[:2000], "corrupt picture", id="half a picture"),
        pytest.param(b"", "empty file", id="nothing"),
        pytest.param(_encoded(Image.new("RGB", (3, 900))), "3 x 900 pixels", id="a thread"),
        pytest.param(_encoded(Image.new("RGB", (40, 40)), "TIFF"), "not a picture", id="a format of many decoders"),
    ],
)
def test_what_is_no_usable_picture_is_refused_in_words(space: Running, data: bytes, said: str) -> None:
    answer = error_of(space.call("ask", uploaded(space, data), QUESTION))
    assert said in answer
    assert _is_clean(answer, space)


def test_a_file_over_the_limit_is_refused_while_it_comes(space: Running) -> None:
    answer = httpx.post(f"{space.url}/gradio_api/upload", files={"files": ("large.png", bytes(11_000_000))}, timeout=60)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("a" * 301, "301 characters; 1 to 300"),
        ("  ", "0 characters"),
        (None, "0 characters"),
        ("What is <image> this?", "signs that are the model's own"),
        ("What is this?</s>", "signs that are the model's own"),
        ("What\x00is this?", "signs that are the model's own"),
    ],
)
def test_a_question_is_checked_on_the_server(space: Running, question: str | None, said: str) -> None:
    assert said in error_of(space.call("ask", uploaded(space, _scene()), question))


def test_a_question_without_a_picture_is_refused(space: Running) -> None:
    assert "There is no picture" in error_of(space.call("ask", None, QUESTION))


def test_a_request_of_megabytes_is_refused_before_it_is_read(space: Running) -> None:
    answer = space.call("ask", None, "a" * 3_000_000)
    assert answer.status_code == 413
    assert "64,000 bytes" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../log", "/proc/self/environ"])
@pytest.mark.parametrize("more", [{}, {"meta": FILE}], ids=["bare", "marked"])
def test_the_servers_own_files_cannot_be_handed_in(space: Running, path: str, more: dict[str, Any]) -> None:
    answer = error_of(space.call("ask", {"path": path, **more}, QUESTION))
    assert "root:" not in answer
    assert "not a picture" not in answer  # it was not even read
    assert _is_clean(answer, space)


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "space/app.py", "..%2Flog", "/proc/self/environ"])
def test_the_servers_own_files_cannot_be_fetched(space: Running, path: str) -> None:
    answer = httpx.get(f"{space.url}/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert _is_clean(answer.text, space)


class _Canary(http.server.BaseHTTPRequestHandler):
    """A server of the local network that no visitor may reach through the Space."""

    reached: list[str] = []  # noqa: RUF012 (each request makes a handler of its own)

    def do_GET(self) -> None:
        self.reached.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(_scene())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def inside() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Canary)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Canary.reached.clear()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_no_address_is_fetched_for_a_visitor(space: Running, inside: str) -> None:
    forms = [f"http://{inside}/a.png", f"http://localhost:{inside.partition(':')[2]}/a.png", f"HTTP://{inside}/a.png"]
    forms += [
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
    ]
    for address in forms:
        for given in ({"path": address, "meta": FILE}, {"path": address}):
            answer = error_of(space.call("ask", given, QUESTION))
            assert "fetches no addresses" in answer
        # A text that pretends to be a file goes another way through Gradio.
        assert "fetches no addresses" in error_of(space.call("ask", None, {"path": address, "meta": FILE}))
    assert _Canary.reached == []


def test_an_uploads_own_url_is_not_followed(space: Running, inside: str) -> None:
    given = {**uploaded(space, _scene()), "url": f"http://{inside}/a.png"}
    assert "event: complete" in space.call("ask", given, QUESTION).text
    assert _Canary.reached == []


@pytest.mark.parametrize("route", ["file=http://{}/a.png", "proxy=http://{}/a.png", "file=%20http://{}/a.png"])
def test_the_space_is_no_proxy(space: Running, inside: str, route: str) -> None:
    answer = httpx.get(f"{space.url}/gradio_api/{route.format(inside)}")
    assert answer.status_code in (403, 404)
    assert _Canary.reached == []


@pytest.mark.parametrize(
    "route", ["deep_link?session_hash=x", "process_recording", "monitoring", "monitoring/summary", "component_server"]
)
def test_routes_that_the_page_does_not_need_are_closed(space: Running, route: str) -> None:
    assert httpx.get(f"{space.url}/gradio_api/{route}").status_code == 404
    assert httpx.post(f"{space.url}/gradio_api/{route}").status_code == 404


def test_nobody_gets_past_the_queue(space: Running) -> None:
    answer = httpx.post(f"{space.url}/gradio_api/run/ask", json={"data": [None, QUESTION]})
    assert answer.status_code == 404
    assert "queue" in answer.json()["detail"]


def test_the_queue_ends_somewhere(space: Running, gate: Gate) -> None:
    call = {"data": [["color"], OWN, 1, False, uploaded(space, _scene()), VISITORS_KEY]}
    with gate.closed():
        given = [httpx.post(f"{space.url}/gradio_api/call/compose", json=call, timeout=60) for _ in range(60)]
    # Four are being answered and 32 wait; whoever comes then is told so.
    full = [answer for answer in given if answer.status_code == 503]
    assert full
    assert given[0].status_code == 200
    assert "full" in full[0].json()["detail"].lower()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ([["color", "shape", "counting", "text_recognition"], SCENE, 1, False, None, ""], "4 capabilities are picked"),
        ([[], SCENE, 1, False, None, ""], "0 capabilities are picked"),
        ([["color", "taste"], SCENE, 1, False, None, ""], "not in the list of choices"),
        ([["color"], SCENE, -1, False, None, ""], "less than minimum value 0"),
        ([["color"], SCENE, 10**30, False, None, ""], "greater than maximum value 9999"),
        ([["color"], SCENE, None, False, None, ""], "0 to 9999"),
        ([["color"], "Nobody", 1, False, None, ""], "not in the list of choices"),
    ],
)
def test_choices_are_checked_on_the_server(space: Running, call: list[Any], said: str) -> None:
    assert said in error_of(space.call("compose", *call))


@pytest.mark.parametrize("key", ["visitors-own-key-wrong", "two words", "k" * 5000, "schlüssel-4711", {"a": "b-4711"}])
def test_a_key_that_is_refused_is_not_repeated(space: Running, key: Any) -> None:
    answer = error_of(space.call("compose", ["color"], OWN, 1, False, uploaded(space, _scene()), key))
    told = json.dumps(key).strip('"')
    assert told not in answer
    assert told not in space.log()
    assert _is_clean(answer, space)


def test_a_visitors_key_is_nowhere_afterwards(space: Running, gemini: GeminiServer) -> None:
    asked = len(gemini.requests)
    answer = space.call("compose", ["color"], OWN, 1, False, uploaded(space, _scene()), VISITORS_KEY)
    assert "event: complete" in answer.text
    assert len(gemini.requests) > asked  # it was used
    assert VISITORS_KEY not in answer.text
    assert VISITORS_KEY not in httpx.get(f"{space.url}/config").text
    written = [path for path in space.folder.rglob("*") if path.is_file()]
    assert len(written) > 20  # log, uploads, caches
    assert [path for path in written if VISITORS_KEY.encode() in path.read_bytes()] == []


def test_what_goes_to_gemini_has_no_metadata(space: Running, gemini: GeminiServer) -> None:
    place = ImageFileDirectory_v2()
    place[0x010E] = "taken at home"
    exif = Image.Exif()
    exif.update(place)
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    data = _encoded(Image.open(io.BytesIO(_scene())).convert("RGB"), "JPEG", exif=exif, comment=b"taken at home")
    assert b"taken at home" in data
    space.call("compose", ["color"], OWN, 1, False, uploaded(space, data, "home.jpg"), VISITORS_KEY)
    sent = gemini.requests[-2].image
    assert b"taken at home" not in sent
    assert not Image.open(io.BytesIO(sent)).getexif()


def test_gradio_keeps_no_key_in_a_session(space: Running) -> None:
    # In a process of its own: Gradio leaves event loops open behind it.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "KEY": VISITORS_KEY}
    told = preforked.run([sys.executable, "-c", _SESSION], cwd=space.folder / "space", env=environment)
    assert told.returncode == 0, told.stderr
    given, held = (json.loads(line) for line in told.stdout.splitlines()[-2:])
    assert given == [VISITORS_KEY, "kept", None]
    assert "kept" in held  # what Gradio does with every other input
    assert VISITORS_KEY not in held


def test_the_log_holds_no_picture_and_no_question(space: Running) -> None:
    space.call("ask", uploaded(space, _scene()), "Where did I park the 4711 car?")
    assert "4711 car" not in space.log()
    assert Path(space.folder / "log").stat().st_size < 1_000_000
