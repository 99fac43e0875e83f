"""Implements a scripted model that ignores images, and the server shared by all protocols.

As a teacher, the model writes a question for the capabilities that the prompt lists. Certain words of the question
encode these capabilities. As a verifier, it decodes them again, so that it recognizes its own questions after a restart
and behind another protocol. To other questions it gives an arbitrary but constant verdict. Its questions and answers
have the right form and no meaning.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compact_hf.records import digest
from compact_hf.testing.server import LocalServer

KEY: Final = "test-key"
"""The default API key of the servers."""

# A capability in a teacher's prompt for one draft: "- color: ...".
_CAPABILITY_LINE: Final = re.compile(r"^- (\w+): ", re.MULTILINE)
# A combination in a teacher's prompt for several drafts: "1. color, counting".
_COMBINATION_LINE: Final = re.compile(r"^\d+\. (\w+(?:, \w+)*)$", re.MULTILINE)
# The form of `_make_draft`: three filler words, then at least one word that encodes a capability.
_OWN_QUESTION: Final = re.compile(r"Which (?:[a-z]+ ){3,}[a-z]+\?")
_LINE_NUMBER: Final = re.compile(r"^\d+\. ")
_FILLER_WORDS: Final = "amber brisk calm dusty eager faint gentle hollow ivory jolly keen lofty mellow narrow".split()
# Words that encode a capability; each is in one list only, and none is a filler word.
_CAPABILITY_WORDS: Final = {
    "color": "marble bucket lantern ribbon kettle".split(),
    "shape": "anchor blanket wheel basket feather".split(),
    "object_recognition": "ladder mirror pillow saddle trumpet".split(),
    "action_recognition": "violin window zipper acorn barrel".split(),
    "text_recognition": "candle dagger engine funnel goblet".split(),
    "spatial_recognition": "hammer island jacket kitten locket".split(),
    "counting": "magnet napkin orchid paddle quiver".split(),
    "spatial_relationship": "rocket sandal tablet teapot turnip".split(),
    "object_interaction": "vessel walnut wagon whistle yogurt".split(),
    "scene_understanding": "zebra bamboo cactus dolphin ember".split(),
}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request as a server parsed it.

    Attributes:
        role (`str`): `teacher`, `verifier` or `blind` (a verifier without the image), recognized by the requested
            schema; `free` for free text without a schema.
        has_list_schema (`bool`): whether the schema is a list, for several drafts, verdicts or answers.
        prompt (`str`): text of the request.
        image (`bytes`): image of the request, a JPEG; empty for `blind`, and for `free` without an image.
        body (`dict[str, Any]`): the JSON body.
        headers (`dict[str, str]`): the HTTP headers, with lower-case names.
    """

    role: str
    has_list_schema: bool
    prompt: str
    image: bytes
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


Fault = Callable[[ModelRequest, int], Response | None]
"""Called with each request and its index (from 0); returns a response to send instead of the answer, or None."""


class ModelServer(LocalServer, ABC):
    """Answers requests like a model that follows the requested schema; a subclass implements a protocol.

    Args:
        routes (`Sequence[Route]`): routes of the protocol.
        accept_rate (`float`): share of its own questions, 0 to 1, of which it says as a verifier that they need exactly
            the requested capabilities. Of the others it says that they need one more.
        latency_s (`float`): seconds before each answer.
        fault (`Fault`): returns an error for the requests that should fail.
        record_requests (`bool`): whether to keep all requests with their images in memory.

    Attributes:
        requests (`list[ModelRequest]`): all valid requests in order; empty unless `record_requests`.
        request_count (`int`): number of valid requests.
    """

    def __init__(
        self, routes: Sequence[Route], *, accept_rate: float, latency_s: float, fault: Fault, record_requests: bool
    ) -> None:
        super().__init__(Starlette(routes=routes))
        self.requests: list[ModelRequest] = []
        self.request_count = 0
        self._record_requests = record_requests
        self._accept_rate = accept_rate
        self._latency_s = latency_s
        self._fault = fault

    @abstractmethod
    def answer(self, model_request: ModelRequest) -> Response:
        """Return the model's answer to a request in the format of the protocol.

        Args:
            model_request (`ModelRequest`): the request.
        """

    @abstractmethod
    def bad_request(self, message: str) -> Response:
        """Return the error of the protocol for an invalid request.

        Args:
            message (`str`): what is wrong with the request.
        """

    async def serve(
        self, request: Request, parse: Callable[[dict[str, Any], dict[str, str]], ModelRequest]
    ) -> Response:
        """Answer one HTTP request.

        Args:
            request (`Request`): the HTTP request.
            parse (`Callable[[dict, dict], ModelRequest]`): parses its JSON body and headers; raises ValueError,
                KeyError or TypeError if the request is invalid.
        """
        try:
            model_request = parse(await request.json(), dict(request.headers))
        # The client has closed the connection. 499 is nginx's code for this case; no one receives it.
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return self.bad_request(f"cannot read the request: {error}")
        # Counted before the simulated latency, so that `fault` gets the index in order of arrival.
        response = self.respond(model_request)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return response

    def respond(self, model_request: ModelRequest) -> Response:
        """Count a request and return its answer, or the error that `fault` returns for it.

        Args:
            model_request (`ModelRequest`): the request.
        """
        # No lock is needed: all handlers run in the thread of the server's event loop.
        number, self.request_count = self.request_count, self.request_count + 1
        if self._record_requests:
            self.requests.append(model_request)
        return self._fault(model_request, number) or self.answer(model_request)

    def make_reply(self, model_request: ModelRequest) -> dict[str, Any]:
        """Return the JSON that the model writes in the requested schema.

        Args:
            model_request (`ModelRequest`): the request; its role is not `free`.
        """
        if model_request.role == "teacher":
            if model_request.has_list_schema:
                combinations = [names.split(", ") for names in _COMBINATION_LINE.findall(model_request.prompt)]
                return _number_items(
                    "drafts",
                    [{"supported": True, **_make_draft(model_request, combination)} for combination in combinations],
                )
            return _make_draft(model_request, _CAPABILITY_LINE.findall(model_request.prompt))
        questions = _read_questions(model_request)
        if model_request.role == "verifier":
            verdicts = [_make_verdict(question, self._accept_rate) for question in questions]
            return _number_items("verdicts", verdicts) if model_request.has_list_schema else verdicts[0]
        # Blind check: the model never guesses, so no question is rejected as answerable without its image.
        answers = [{"answer": "no idea"} for _ in questions]
        return _number_items("answers", answers) if model_request.has_list_schema else answers[0]


def make_model_request(
    prompt: str, schema: dict[str, Any] | None, images: Sequence[bytes], body: dict[str, Any], headers: dict[str, str]
) -> ModelRequest:
    """Return the request, with its role derived from the fields of the schema.

    Args:
        prompt (`str`): text of the request.
        schema (`dict[str, Any]`, *optional*): JSON schema of the reply; None for free text.
        images (`Sequence[bytes]`): images of the request.
        body (`dict[str, Any]`): the JSON body.
        headers (`dict[str, str]`): the HTTP headers, with lower-case names.

    Raises:
        ValueError: the images do not fit the role: one JPEG for teachers and verifiers, none for the blind check, at
            most one for free text.
    """
    fields = set() if schema is None else schema["properties"].keys()
    role = (
        "free"
        if schema is None
        else "teacher"
        if fields & {"confidence", "drafts"}
        else "verifier"
        if fields & {"capabilities", "verdicts"}
        else "blind"
    )
    # Free text is requested with an image; without one in a control of an evaluation.
    if len(images) > 1 or (role != "free" and len(images) != (role != "blind")):
        raise ValueError(f"expected {'no' if role == 'blind' else 'one'} image, got {len(images)}")
    for image in images:
        _check_jpeg(image)
    has_list_schema = bool(fields & {"drafts", "verdicts", "answers"})
    return ModelRequest(role, has_list_schema, prompt, b"".join(images), body, headers)


def _check_jpeg(data: bytes) -> None:
    """Raise a ValueError if the image is not a complete JPEG."""
    # Only the header and the end are checked. Decoding the pixels would take longer than the rest of the request.
    try:
        Image.open(io.BytesIO(data), formats=["JPEG"]).close()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the image is not a JPEG: {error}") from error
    # FF D9 is the end marker of a JPEG.
    if not data.endswith(b"\xff\xd9"):
        raise ValueError("the image is a truncated JPEG")


def make_text_reply(model_request: ModelRequest) -> str:
    """Return the model's answer in free text: one word, which only depends on the first line of the prompt.

    Args:
        model_request (`ModelRequest`): the request; its role is `free`.
    """
    return _make_answer(model_request.prompt.partition("\n")[0])


def _number_items(name: str, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [{"number": number, **item} for number, item in enumerate(items, 1)]}


def _make_draft(model_request: ModelRequest, capabilities: Sequence[str]) -> dict[str, Any]:
    """Return a draft whose question has three filler words and one word that encodes each capability."""
    # The same image and capabilities give the same draft. The first 2 KB of the image, as hex, are enough to identify
    # it.
    rng = random.Random(digest(model_request.image.hex()[:4096], capabilities))
    # Random words, because questions with the same words would be rejected as near-duplicates.
    words = [*rng.sample(_FILLER_WORDS, 3), *(rng.choice(_CAPABILITY_WORDS[name]) for name in capabilities)]
    question = f"Which {' '.join(words)}?"
    return {"question": question, "answer": _make_answer(question), "confidence": rng.randint(75, 99)}


def _read_questions(model_request: ModelRequest) -> list[str]:
    """Return the questions in a verifier's prompt: its second paragraph, with one question per line if several."""
    paragraph = model_request.prompt.split("\n\n")[1]
    return (
        [_LINE_NUMBER.sub("", line) for line in paragraph.split("\n")] if model_request.has_list_schema else [paragraph]
    )


def _make_verdict(question: str, accept_rate: float) -> dict[str, Any]:
    """Return the capabilities that the words of a question encode, with one more if it is not to be accepted."""
    words = question.rstrip("?").split()
    # Seeded by the words only, so that a repeated request gets the same verdict.
    rng = random.Random(digest("verdict", words))
    # words[0] is "Which"; the next three are the filler words.
    if not _OWN_QUESTION.fullmatch(question) or not set(words[1:4]) <= set(_FILLER_WORDS):
        # Not a question of this model: an arbitrary verdict that only depends on the question.
        return {"capabilities": rng.sample(list(_CAPABILITY_WORDS), rng.randrange(5)), "answer": _make_answer(question)}
    capabilities = [name for name, vocabulary in _CAPABILITY_WORDS.items() if set(vocabulary) & set(words)]
    if rng.random() >= accept_rate:
        capabilities.append(rng.choice([name for name in _CAPABILITY_WORDS if name not in capabilities]))
    return {"capabilities": capabilities, "answer": _make_answer(question)}


def _make_answer(question: str) -> str:
    """Return the answer to a question; as a teacher and as a verifier the model gives the same one."""
    # Not a word of the question, because a filter rejects questions that contain their answer.
    return random.Random(digest("answer", question)).choice([word for word in _FILLER_WORDS if word not in question])


def serve_until_ctrl_c(
    module: str, purpose: str, make_server: Callable[..., ModelServer], argv: Iterable[str] | None
) -> None:
    """Run the command `python -m MODULE`: write the server's URL to stdout and serve until Ctrl-C.

    Args:
        module (`str`): name of the module, for the help text.
        purpose (`str`): a sentence that describes the server, for the help text.
        make_server (`Callable[..., ModelServer]`): the class of the server.
        argv (`Iterable[str]`, *optional*, defaults to the command line): the arguments.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=purpose)
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="S", help="seconds before each answer (default: 0)"
    )
    parser.add_argument(
        "--accept-rate",
        type=float,
        default=1.0,
        metavar="R",
        help="share of drafts that are accepted, 0 to 1 (default: 1)",
    )
    args = parser.parse_args(None if argv is None else list(argv))
    with make_server(latency_s=args.latency, accept_rate=args.accept_rate, record_requests=False) as server:
        sys.stderr.write(f"{purpose} The key is {KEY!r}; stop it with Ctrl-C.\n")
        # Only the URL goes to stdout, and at once, so that a script can read it.
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        try:
            # The server runs in its own thread; this one waits for Ctrl-C only.
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write(f"answered {server.request_count} requests\n")
