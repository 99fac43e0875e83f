"""Attacks the running Space: each attack gets an error that states what is allowed, and the Space keeps serving.

Requests that Gradio's Python client would refuse itself are posted directly, as an attacker would do.
"""

from __future__ import annotations

import http.client
import http.server
import io
import json
import os
import re
import socket
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
from tests.spaces_demo.conftest import REPOSITORY, VISITORS_KEY, Gate, RunningSpace, read_error, upload

QUESTION = "What color is the cat?"
SCENE, OWN = "A drawn scene", "My own image, with Gemini"
FILE = {"_type": "gradio.FileData"}


# Passes a key and a text to the function of a page as Gradio does, and prints what the function received and what is
# stored in the session.
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
def still_serves(space: RunningSpace) -> Iterator[None]:
    """Check after every attack that the queue passes the next call to the function of the tab."""
    yield
    while "Queue is full" in (error := read_error(space.call("ask", None, QUESTION))):
        time.sleep(0.2)  # wait for the calls that the test has queued; pytest's timeout ends this otherwise
    assert "There is no image" in error


@pytest.fixture(scope="module", autouse=True)
def slow_client(space: RunningSpace) -> Iterator[socket.socket]:
    """A client that never finishes the body of its request; it starts before all tests, which take longer."""
    url = httpx.URL(space.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as client:
        client.sendall(b"POST /gradio_api/call/ask HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
        yield client


@pytest.fixture(scope="module", autouse=True)
def still_answers(space: RunningSpace) -> Iterator[None]:
    """Check after all attacks that the models answer and that rows are shown."""
    yield
    assert "event: complete" in space.call("ask", upload(space, _scene_png()), QUESTION).text
    assert "event: complete" in space.call("explore", "3", "counting", 1).text


@cache
def _scene_png() -> bytes:
    return SceneSource(0, 4).read("scene:3")


def _encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _decompression_bomb(edge: int) -> bytes:
    """Return a PNG of a few kilobytes that decodes to `edge` x `edge` pixels."""
    rows = zlib.compressobj(9)
    line = bytes(1 + edge // 8)
    packed = b"".join([*(rows.compress(line) for _ in range(edge)), rows.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = edge.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _is_clean(text: str, space: RunningSpace) -> bool:
    secrets = (str(space.directory), str(REPOSITORY), "Traceback", "site-packages", VISITORS_KEY)
    return not any(secret in text for secret in secrets)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(_decompression_bomb(8_000), "8000 x 8000 pixels; at most 16 million", id="a decompression bomb"),
        pytest.param(b"<html><script>alert(1)</script>", "not a picture", id="a page"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture", id="a drawing that runs scripts"),
        pytest.param(_scene_png()[:2000], "corrupt picture", id="half a picture"),
        pytest.param(b"", "empty file", id="nothing"),
        pytest.param(_encode(Image.new("RGB", (3, 900))), "3 x 900 pixels", id="a thread"),
        pytest.param(_encode(Image.new("RGB", (40, 40)), "TIFF"), "not a picture", id="a format of many decoders"),
    ],
)
def test_what_is_no_usable_picture_is_refused_in_words(space: RunningSpace, data: bytes, said: str) -> None:
    error = read_error(space.call("ask", upload(space, data), QUESTION))
    assert said in error
    assert _is_clean(error, space)


def test_a_file_over_the_limit_is_refused_while_it_comes(space: RunningSpace) -> None:
    answer = httpx.post(f"{space.url}/gradio_api/upload", files={"files": ("large.png", bytes(11_000_000))}, timeout=60)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("a" * 301, "301 characters; 1 to 300"),
        ("  ", "0 characters"),
        (None, "0 characters"),
        ("What is <image> this?", "special tokens of the model"),
        ("What is this?</s>", "special tokens of the model"),
        ("What\x00is this?", "special tokens of the model"),
    ],
)
def test_a_question_is_checked_on_the_server(space: RunningSpace, question: str | None, said: str) -> None:
    assert said in read_error(space.call("ask", upload(space, _scene_png()), question))


def test_a_question_without_a_picture_is_refused(space: RunningSpace) -> None:
    assert "There is no image" in read_error(space.call("ask", None, QUESTION))


def test_all_files_of_an_upload_together_are_limited(space: RunningSpace) -> None:
    files = [("files", (f"{number}.png", bytes(6_000_000))) for number in range(2)]
    answer = httpx.post(f"{space.url}/gradio_api/upload", files=files, timeout=60)
    assert answer.status_code == 413
    assert "10,064,000 bytes" in answer.json()["detail"]


def test_large_images_are_scaled_down_before_the_model_sees_them(space: RunningSpace) -> None:
    # A photo of a phone, with more pixels than other formats may have.
    photo = _encode(Image.new("RGB", (7000, 5000), (9, 9, 200)), "JPEG")
    assert "event: complete" in space.call("ask", upload(space, photo, "photo.jpg"), QUESTION).text


def _post_raw(space: RunningSpace, path: str, body: bytes, content_type: str = "application/json") -> httpx.Response:
    headers = {"content-type": content_type}
    return httpx.post(f"{space.url}/gradio_api/{path}", content=body, headers=headers, timeout=60)


_FORM = b'--A\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--A--\r\n'


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("queue/join", b'{"data": [], "fn_index": 999, "session_hash": "a"}', "no such function"),
        ("queue/join", b'{"data": [], "fn_index": true, "session_hash": "a"}', "no such function"),
        ("run/predict", b'{"data": [], "fn_index": -1}', "no such function"),
        ("call/nobody", b'{"data": []}', "no such function"),
        ("call/ask", b'{"data": "?"}', "a list of 2 inputs"),
        ("call/ask", b'{"data": [null, "?"], "session_hash": "' + b"a" * 65 + b'"}', "at most 64 characters"),
        ("call/ask", b"[]", "a JSON object"),
        ("call/explore", b'{"data": ["any", "any", NaN]}', "not valid JSON"),
        ("call/ask", b'{"data": [null, "\\ud800"]}', "not valid JSON"),
        ("call/explore", b'{"data": ["any", "any", 1e400]}', "not valid JSON"),
        ("reset", b'{"event_id": NaN}', "not valid JSON"),
        ("cancel", b"[" * 30_000 + b"]" * 30_000, "not valid JSON"),
    ],
)
def test_a_call_that_no_function_can_answer_is_refused(space: RunningSpace, path: str, body: bytes, said: str) -> None:
    answer = _post_raw(space, path, body)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


def test_an_upload_without_a_file_is_refused(space: RunningSpace) -> None:
    answer = _post_raw(space, "upload", _FORM, "multipart/form-data; boundary=A")
    assert (answer.status_code, answer.json()) == (400, {"detail": "the upload has no file"})


def test_a_failed_upload_does_not_stay_on_the_disk(space: RunningSpace) -> None:
    # The end of the form is missing, so Gradio keeps what came, and does not know of it later.
    begun = b'--A\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
    _post_raw(space, "upload", begun, "multipart/form-data; boundary=A")
    directory = space.directory / "tmp/gradio"
    stray_files = [path for path in directory.iterdir() if path.is_file()]
    assert stray_files
    for path in stray_files:
        os.utime(path, (0, 0))
    upload(space, _scene_png())
    assert not any(path.exists() for path in stray_files)


@pytest.mark.slow  # 500 sessions
def test_new_sessions_do_not_use_up_the_memory(space: RunningSpace) -> None:
    def open_sessions(first: int) -> int:
        for number in range(first, first + 250):
            call = {"data": ["3", "counting", 1], "session_hash": f"session{number}"}
            event = httpx.post(f"{space.url}/gradio_api/call/explore", json=call, timeout=60).json()["event_id"]
            httpx.get(f"{space.url}/gradio_api/call/explore/{event}", timeout=60)
        (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{space.pid}/status").read_text())
        return int(resident)

    before = open_sessions(0)
    assert open_sessions(250) - before < 30_000


def test_unknown_calls_and_sessions_leave_no_traceback(space: RunningSpace) -> None:
    for path in ("queue/data?session_hash=nobody", "call/ask/nobody"):
        assert "404" in httpx.get(f"{space.url}/gradio_api/{path}").text
    assert "Traceback" not in space.log()


def test_a_request_of_megabytes_is_refused_before_it_is_read(space: RunningSpace) -> None:
    answer = space.call("ask", None, "a" * 3_000_000)
    assert answer.status_code == 413
    assert "64,000 bytes" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../log", "/proc/self/environ"])
@pytest.mark.parametrize("more", [{}, {"meta": FILE}], ids=["bare", "marked"])
def test_the_servers_own_files_cannot_be_handed_in(space: RunningSpace, path: str, more: dict[str, Any]) -> None:
    error = read_error(space.call("ask", {"path": path, **more}, QUESTION))
    assert "root:" not in error
    assert "not a picture" not in error  # it was not even read
    assert _is_clean(error, space)


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "space/app.py", "..%2Flog", "/proc/self/environ"])
def test_the_servers_own_files_cannot_be_fetched(space: RunningSpace, path: str) -> None:
    answer = httpx.get(f"{space.url}/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert _is_clean(answer.text, space)


class _Canary(http.server.BaseHTTPRequestHandler):
    """A server in the local network that visitors must not reach through the Space."""

    reached: list[str] = []  # noqa: RUF012 (each request makes a handler of its own)

    def do_GET(self) -> None:
        self.reached.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(_scene_png())

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.fixture
def inside() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Canary)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Canary.reached.clear()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_no_address_is_fetched_for_a_visitor(space: RunningSpace, inside: str) -> None:
    addresses = [
        f"http://{inside}/a.png",
        f"http://localhost:{inside.partition(':')[2]}/a.png",
        f"HTTP://{inside}/a.png",
    ]
    addresses += [
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
    ]
    for address in addresses:
        for file_data in ({"path": address, "meta": FILE}, {"path": address}):
            error = read_error(space.call("ask", file_data, QUESTION))
            assert "does not fetch URLs" in error
        # Gradio handles a file that is passed as a text in another way.
        assert "does not fetch URLs" in read_error(space.call("ask", None, {"path": address, "meta": FILE}))
    assert _Canary.reached == []


def test_an_uploads_own_url_is_not_followed(space: RunningSpace, inside: str) -> None:
    file_data = {**upload(space, _scene_png()), "url": f"http://{inside}/a.png"}
    assert "event: complete" in space.call("ask", file_data, QUESTION).text
    assert _Canary.reached == []


@pytest.mark.parametrize("route", ["file=http://{}/a.png", "proxy=http://{}/a.png", "file=%20http://{}/a.png"])
def test_the_space_is_no_proxy(space: RunningSpace, inside: str, route: str) -> None:
    answer = httpx.get(f"{space.url}/gradio_api/{route.format(inside)}")
    assert answer.status_code in (403, 404)
    assert _Canary.reached == []


@pytest.mark.parametrize(
    "route", ["deep_link?session_hash=x", "process_recording", "monitoring", "monitoring/summary", "component_server"]
)
def test_routes_that_the_page_does_not_need_are_closed(space: RunningSpace, route: str) -> None:
    assert httpx.get(f"{space.url}/gradio_api/{route}").status_code == 404
    assert httpx.post(f"{space.url}/gradio_api/{route}").status_code == 404


def test_nobody_gets_past_the_queue(space: RunningSpace) -> None:
    answer = httpx.post(f"{space.url}/gradio_api/run/ask", json={"data": [None, QUESTION]})
    assert answer.status_code == 404
    assert "queue" in answer.json()["detail"]


def test_the_queue_ends_somewhere(space: RunningSpace, gate: Gate) -> None:
    call = {"data": [["color"], OWN, 1, False, upload(space, _scene_png()), VISITORS_KEY]}
    with gate.closed():
        responses = [httpx.post(f"{space.url}/gradio_api/call/compose", json=call, timeout=60) for _ in range(60)]
    # Four calls are being answered and 32 are waiting; further calls are refused.
    full = [response for response in responses if response.status_code == 503]
    assert full
    assert responses[0].status_code == 200
    assert "full" in full[0].json()["detail"].lower()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            [["color", "shape", "counting", "text_recognition"], SCENE, 1, False, None, ""],
            "4 capabilities are selected",
        ),
        ([[], SCENE, 1, False, None, ""], "0 capabilities are selected"),
        ([["color", "taste"], SCENE, 1, False, None, ""], "the question needs: Input should be 'color', 'shape'"),
        ([["color"], SCENE, -1, False, None, ""], "less than minimum value 0"),
        ([["color"], SCENE, 10**30, False, None, ""], "greater than maximum value 9999"),
        ([["color"], SCENE, None, False, None, ""], "0 to 9999"),
        ([["color"], "Nobody", 1, False, None, ""], "Image: Input should be 'A drawn scene"),
        ([["color"], SCENE, "1", False, None, ""], "Input should be a valid number"),
        ([["color"], SCENE, 1, False, "scene.png", ""], "Your image: Input should be an object"),
        ([["color"], SCENE], "data has to be a list of 6 inputs"),
    ],
)
def test_choices_are_checked_on_the_server(space: RunningSpace, call: list[Any], said: str) -> None:
    assert said in read_error(space.call("compose", *call))


@pytest.mark.parametrize("key", ["visitors-own-key-wrong", "two words", "k" * 5000, "schlüssel-4711", {"a": "b-4711"}])
def test_a_key_that_is_refused_is_not_repeated(space: RunningSpace, key: Any) -> None:
    error = read_error(space.call("compose", ["color"], OWN, 1, False, upload(space, _scene_png()), key))
    key_text = json.dumps(key).strip('"')
    assert key_text not in error
    assert key_text not in space.log()
    assert _is_clean(error, space)


def test_a_visitors_key_is_nowhere_afterwards(space: RunningSpace, gemini: GeminiServer) -> None:
    request_count = len(gemini.requests)
    answer = space.call("compose", ["color"], OWN, 1, False, upload(space, _scene_png()), VISITORS_KEY)
    assert "event: complete" in answer.text
    assert len(gemini.requests) > request_count  # it was used
    assert VISITORS_KEY not in answer.text
    assert VISITORS_KEY not in httpx.get(f"{space.url}/config").text
    paths = [path for path in space.directory.rglob("*") if path.is_file()]
    assert len(paths) > 20  # log, uploads, caches
    assert [path for path in paths if VISITORS_KEY.encode() in path.read_bytes()] == []


def test_what_goes_to_gemini_has_no_metadata(space: RunningSpace, gemini: GeminiServer) -> None:
    ifd = ImageFileDirectory_v2()
    ifd[0x010E] = "taken at home"
    exif = Image.Exif()
    exif.update(ifd)
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    data = _encode(Image.open(io.BytesIO(_scene_png())).convert("RGB"), "JPEG", exif=exif, comment=b"taken at home")
    assert b"taken at home" in data
    space.call("compose", ["color"], OWN, 1, False, upload(space, data, "home.jpg"), VISITORS_KEY)
    image = gemini.requests[-2].image
    assert b"taken at home" not in image
    assert not Image.open(io.BytesIO(image)).getexif()


def test_gradio_keeps_no_key_in_a_session(space: RunningSpace) -> None:
    # In a separate process, because Gradio leaves event loops open.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "KEY": VISITORS_KEY}
    process = preforked.run([sys.executable, "-c", _SESSION], cwd=space.directory / "space", env=environment)
    assert process.returncode == 0, process.stderr
    inputs, state = (json.loads(line) for line in process.stdout.splitlines()[-2:])
    assert inputs == [VISITORS_KEY, "kept", None]
    assert "kept" in state  # what Gradio does with every other input
    assert VISITORS_KEY not in state


def test_the_log_holds_no_picture_and_no_question(space: RunningSpace) -> None:
    space.call("ask", upload(space, _scene_png()), "Where did I park the 4711 car?")
    assert "4711 car" not in space.log()
    assert Path(space.directory / "log").stat().st_size < 1_000_000


def test_a_request_that_never_ends_is_refused(slow_client: socket.socket) -> None:
    with http.client.HTTPResponse(slow_client) as response:
        response.begin()
        assert response.status == 408
        assert "longer than 20 seconds" in response.read().decode()
