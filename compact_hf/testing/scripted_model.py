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

_NEEDS: Final = re.compile(r"^- (\w+): ", re.MULTILINE)
_SET: Final = re.compile(r"^\d+\. (\w+(?:, \w+)*)$", re.MULTILINE)
_OWN: Final = re.compile(r"Which (?:[a-z]+ ){3,}[a-z]+\?")
_NUMBER: Final = re.compile(r"^\d+\. ")
_FILLERS: Final = "amber brisk calm dusty eager faint gentle hollow ivory jolly keen lofty mellow narrow".split()
_WORDS: Final = {
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
class Asked:
    """One request as a server understood it.

    Attributes:
        role (`str`): `teacher`, `verifier` or `blind` (a verifier without the picture), by the schema asked for;
            `free` where none is.
        several (`bool`): the schema holds a list: several questions are asked for, or about.
        prompt (`str`): the text part.
        picture (`bytes`): the picture part, a JPEG; empty for `blind`.
        body (`dict`): the JSON body as it came.
        headers (`dict[str, str]`): lower-case names.
    """

    role: str
    several: bool
    prompt: str
    picture: bytes
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


Fault = Callable[[Asked, int], Response | None]
"""Called with each request and its number from 0: a response to send instead of the answer, or None."""


class ModelServer(LocalServer, ABC):
    """Answer requests like a model that keeps to the schema; subclasses speak a protocol.

    Args:
        routes (`Sequence[Route]`): where the protocol's requests come in.
        accept_rate (`float`): share, 0 to 1, of questions that it judges to need exactly what they were written for;
            the others need one capability more.
        latency_s (`float`): seconds before each answer.
        fault (`Fault`): decides which requests go wrong, and how.
        remember (`bool`): keep what was asked, pictures and all.

    Attributes:
        asked (`list[Asked]`): every request that was understood, in order; empty where it does not remember.
        answered (`int`): how many those were.
    """

    def __init__(
        self, routes: Sequence[Route], *, accept_rate: float, latency_s: float, fault: Fault, remember: bool
    ) -> None:
        super().__init__(Starlette(routes=routes))
        self.asked: list[Asked] = []
        self.answered = 0
        self._remember = remember
        self._accept_rate = accept_rate
        self._latency_s = latency_s
        self._fault = fault

    @abstractmethod
    def answer(self, asked: Asked) -> Response:
        """Return the answer of a model that does what it is told."""

    @abstractmethod
    def refuse(self, why: str) -> Response:
        """Return the error for a request that the service would not understand."""

    async def serve(self, request: Request, understood: Callable[[dict[str, Any], dict[str, str]], Asked]) -> Response:
        """Answer one request that `understood` makes out of its body and headers."""
        try:
            asked = understood(await request.json(), dict(request.headers))
        except ClientDisconnect:
            return Response(status_code=499)
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(f"cannot read the request: {error}")
        response = self.respond(asked)
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return response

    def respond(self, asked: Asked) -> Response:
        """Count a request, and return its answer or what a fault puts in the answer's place."""
        number, self.answered = self.answered, self.answered + 1
        if self._remember:
            self.asked.append(asked)
        return self._fault(asked, number) or self.answer(asked)

    def written(self, asked: Asked) -> dict[str, Any]:
        """Return the JSON that the model writes."""
        if asked.role == "teacher":
            if asked.several:
                sets = [found.split(", ") for found in _SET.findall(asked.prompt)]
                return _numbered("drafts", [{"supported": True, **_draft(asked, needed)} for needed in sets])
            return _draft(asked, _NEEDS.findall(asked.prompt))
        questions = _questions(asked)
        if asked.role == "verifier":
            verdicts = [_verdict(question, self._accept_rate) for question in questions]
            return _numbered("verdicts", verdicts) if asked.several else verdicts[0]
        answers = [{"answer": "no idea"} for _ in questions]
        return _numbered("answers", answers) if asked.several else answers[0]


def asked_for(
    prompt: str, schema: dict[str, Any] | None, pictures: Sequence[bytes], body: dict[str, Any], headers: dict[str, str]
) -> Asked:
    """Return a request whose role shows in its schema; None where free text is asked for.

    Raises:
        ValueError: the pictures are not what that role gets: one JPEG, or none where the question is asked blindly.
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
    if len(pictures) != (role != "blind"):
        raise ValueError(f"expected {'no' if role == 'blind' else 'one'} picture, got {len(pictures)}")
    for data in pictures:
        _check_jpeg(data)
    several = bool(fields & {"drafts", "verdicts", "answers"})
    return Asked(role, several, prompt, b"".join(pictures), body, headers)


def _check_jpeg(data: bytes) -> None:
    # The header and the end are looked at, not what lies between: that would cost more than all the rest.
    try:
        Image.open(io.BytesIO(data), formats=["JPEG"]).close()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the picture is not a JPEG: {error}") from error
    if not data.endswith(b"\xff\xd9"):
        raise ValueError("the picture is a JPEG that was cut")


def spoken(asked: Asked) -> str:
    """Return what it answers in free text: to the prompt's first line one word, always the same."""
    return _answer(asked.prompt.partition("\n")[0])


def _numbered(name: str, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [{"number": number, **item} for number, item in enumerate(items, 1)]}


def _draft(asked: Asked, needed: Sequence[str]) -> dict[str, Any]:
    rng = random.Random(digest(asked.picture.hex()[:4096], needed))
    # Words differ from question to question, or they would be dropped as repetitions of each other.
    words = [*rng.sample(_FILLERS, 3), *(rng.choice(_WORDS[name]) for name in needed)]
    question = f"Which {' '.join(words)}?"
    return {"question": question, "answer": _answer(question), "confidence": rng.randint(75, 99)}


def _questions(asked: Asked) -> list[str]:
    """Return what is asked: the prompt's second paragraph, line by line where it asks several."""
    paragraph = asked.prompt.split("\n\n")[1]
    return [_NUMBER.sub("", line) for line in paragraph.split("\n")] if asked.several else [paragraph]


def _verdict(question: str, accept_rate: float) -> dict[str, Any]:
    words = question.rstrip("?").split()
    rng = random.Random(digest("verdict", words))
    if not _OWN.fullmatch(question) or not set(words[1:4]) <= set(_FILLERS):
        # Somebody else's question: it cannot know, but it always says the same.
        return {"capabilities": rng.sample(list(_WORDS), rng.randrange(5)), "answer": _answer(question)}
    needed = [name for name, known in _WORDS.items() if set(known) & set(words)]
    if rng.random() >= accept_rate:
        needed.append(rng.choice([name for name in _WORDS if name not in needed]))
    return {"capabilities": needed, "answer": _answer(question)}


def _answer(question: str) -> str:
    """Return the one answer that the double gives to a question, whether it writes or judges."""
    return random.Random(digest("answer", question)).choice([word for word in _FILLERS if word not in question])


def serve_until_ctrl_c(
    module: str, purpose: str, server: Callable[..., ModelServer], arguments: Iterable[str] | None
) -> None:
    """Be the program `python -m MODULE`: the URL goes to stdout."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=purpose)
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before each answer")
    parser.add_argument("--accept-rate", type=float, default=1.0, metavar="R", help="share of drafts that pass, 0 to 1")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    with server(latency_s=chosen.latency, accept_rate=chosen.accept_rate, remember=False) as started:
        sys.stderr.write(f"{purpose} The key is {KEY!r}; Ctrl-C ends it.\n")
        sys.stdout.write(f"{started.url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write(f"answered {started.answered} requests\n")
