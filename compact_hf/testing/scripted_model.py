"""What the doubles of services share: a model that cannot see, and the server around it.

It writes a question for the capabilities that the prompt lists, and as a verifier says for its own questions what they
need; it knows them again by their words, also after it was started anew and behind another protocol. Of other questions
it says anything, but the same each time. What it writes is only as true as the protocol needs.
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
"""The only key that the doubles take, unless told otherwise."""

_CAPABILITY_LINE: Final = re.compile(r"^- (\w+): ", re.MULTILINE)
_COMBINATION_LINE: Final = re.compile(r"^\d+\. (\w+(?:, \w+)*)$", re.MULTILINE)
_OWN_QUESTION: Final = re.compile(r"Which (?:[a-z]+ ){3,}[a-z]+\?")
_LINE_NUMBER: Final = re.compile(r"^\d+\. ")
_FILLER_WORDS: Final = "amber brisk calm dusty eager faint gentle hollow ivory jolly keen lofty mellow narrow".split()
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
    """One request as a server understood it.

    Attributes:
        role (`str`): `teacher`, `verifier` or `blind` (a verifier without the image), by the schema asked for;
            `free` where none is.
        has_list_schema (`bool`): the schema holds a list: several questions are asked for, or about.
        prompt (`str`): the text part.
        image (`bytes`): the image part, a JPEG; empty for `blind`, and for `free` where there is none.
        body (`dict`): the JSON body as it came.
        headers (`dict[str, str]`): lower-case names.
    """

    role: str
    has_list_schema: bool
    prompt: str
    image: bytes
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


Fault = Callable[[ModelRequest, int], Response | None]
"""Called with each request and its number from 0: a response to send instead of the answer, or None."""


class ModelServer(LocalServer, ABC):
    """Answer requests like a model that keeps to the schema; subclasses speak a protocol.

    Args:
        routes (`Sequence[Route]`): where the protocol's requests come in.
        accept_rate (`float`): share, 0 to 1, of questions that it judges to need exactly what they were written for;
            the others need one capability more.
        latency_s (`float`): seconds before each answer.
        fault (`Fault`): decides which requests go wrong, and how.
        record_requests (`bool`): keep what was asked, images and all.

    Attributes:
        requests (`list[ModelRequest]`): every request that was understood, in order; empty where it does not remember.
        request_count (`int`): how many those were.
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
        """Return the answer of a model that does what it is told."""

    @abstractmethod
    def bad_request(self, message: str) -> Response:
        """Return the error for a request that the service would not understand."""

    async def serve(
        self, request: Request, parse: Callable[[dict[str, Any], dict[str, str]], ModelRequest]
    ) -> Response:
        """Answer one request that `parse` makes out of its body and headers."""
        try:
            model_request = parse(await request.json(), dict(request.headers))
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return self.bad_request(f"cannot read the request: {error}")
        response = self.respond(model_request)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return response

    def respond(self, model_request: ModelRequest) -> Response:
        """Count a request, and return its answer or what a fault puts in the answer's place."""
        number, self.request_count = self.request_count, self.request_count + 1
        if self._record_requests:
            self.requests.append(model_request)
        return self._fault(model_request, number) or self.answer(model_request)

    def make_reply(self, model_request: ModelRequest) -> dict[str, Any]:
        """Return the JSON that the model writes."""
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
        answers = [{"answer": "no idea"} for _ in questions]
        return _number_items("answers", answers) if model_request.has_list_schema else answers[0]


def make_model_request(
    prompt: str, schema: dict[str, Any] | None, images: Sequence[bytes], body: dict[str, Any], headers: dict[str, str]
) -> ModelRequest:
    """Return a request whose role shows in its schema; None where free text is asked for.

    Raises:
        ValueError: the images are not what that role gets: one JPEG, none where the question is asked blindly, at most
            one for free text.
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
    # Free text is asked for with an image, or as an evaluation's control without.
    if len(images) > 1 or (role != "free" and len(images) != (role != "blind")):
        raise ValueError(f"expected {'no' if role == 'blind' else 'one'} picture, got {len(images)}")
    for image in images:
        _check_jpeg(image)
    has_list_schema = bool(fields & {"drafts", "verdicts", "answers"})
    return ModelRequest(role, has_list_schema, prompt, b"".join(images), body, headers)


def _check_jpeg(data: bytes) -> None:
    # The header and the end are looked at, not what lies between: that would cost more than all the rest.
    try:
        Image.open(io.BytesIO(data), formats=["JPEG"]).close()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the picture is not a JPEG: {error}") from error
    if not data.endswith(b"\xff\xd9"):
        raise ValueError("the picture is a JPEG that was cut")


def make_text_reply(model_request: ModelRequest) -> str:
    """Return what it answers in free text: to the prompt's first line one word, always the same."""
    return _make_answer(model_request.prompt.partition("\n")[0])


def _number_items(name: str, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [{"number": number, **item} for number, item in enumerate(items, 1)]}


def _make_draft(model_request: ModelRequest, capabilities: Sequence[str]) -> dict[str, Any]:
    rng = random.Random(digest(model_request.image.hex()[:4096], capabilities))
    # Words differ from question to question, or they would be dropped as repetitions of each other.
    words = [*rng.sample(_FILLER_WORDS, 3), *(rng.choice(_CAPABILITY_WORDS[name]) for name in capabilities)]
    question = f"Which {' '.join(words)}?"
    return {"question": question, "answer": _make_answer(question), "confidence": rng.randint(75, 99)}


def _read_questions(model_request: ModelRequest) -> list[str]:
    """Return what is asked: the prompt's second paragraph, line by line where it asks several."""
    paragraph = model_request.prompt.split("\n\n")[1]
    return (
        [_LINE_NUMBER.sub("", line) for line in paragraph.split("\n")] if model_request.has_list_schema else [paragraph]
    )


def _make_verdict(question: str, accept_rate: float) -> dict[str, Any]:
    words = question.rstrip("?").split()
    rng = random.Random(digest("verdict", words))
    if not _OWN_QUESTION.fullmatch(question) or not set(words[1:4]) <= set(_FILLER_WORDS):
        # Somebody else's question: it cannot know, but it always says the same.
        return {"capabilities": rng.sample(list(_CAPABILITY_WORDS), rng.randrange(5)), "answer": _make_answer(question)}
    capabilities = [name for name, vocabulary in _CAPABILITY_WORDS.items() if set(vocabulary) & set(words)]
    if rng.random() >= accept_rate:
        capabilities.append(rng.choice([name for name in _CAPABILITY_WORDS if name not in capabilities]))
    return {"capabilities": capabilities, "answer": _make_answer(question)}


def _make_answer(question: str) -> str:
    """Return the one answer that the double gives to a question, whether it writes or judges."""
    return random.Random(digest("answer", question)).choice([word for word in _FILLER_WORDS if word not in question])


def serve_until_ctrl_c(
    module: str, purpose: str, make_server: Callable[..., ModelServer], argv: Iterable[str] | None
) -> None:
    """Be the program `python -m MODULE`: the URL goes to stdout."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=purpose)
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--accept-rate", type=float, default=1.0, metavar="R", help="share of drafts that pass, 0 to 1")
    args = parser.parse_args(None if argv is None else list(argv))
    with make_server(latency_s=args.latency, accept_rate=args.accept_rate, record_requests=False) as server:
        sys.stderr.write(f"{purpose} The key is {KEY!r}; Ctrl-C ends it.\n")
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write(f"answered {server.request_count} requests\n")
