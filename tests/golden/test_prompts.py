"""Everything that a teacher, a verifier or an evaluated model is sent, as their servers get it, is golden.

The requests are those of the real clients over loopback. A scripted model answers, so that each run asks everything
that it can ask: a change of wording, of a schema, of a setting or of the order of the draws changes a golden file.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from compact_hf.cli.main import main
from compact_hf.testing import gemini, openai
from compact_hf.testing.scripted_model import KEY, ModelRequest

Golden = Callable[[str, str], None]

QUESTIONS = (
    "Which kettle looks oldest?",
    "What hangs above Anna?",
    "How many ribbons flutter?",
    "Who carries seven ladders?",
    "Where do pigeons gather?",
    "Why was dinner served so early?",
    "Is that violin broken?",
    "When does our train depart?",
    "Whose umbrella lies under it?",
    "Can these children swim?",
)
"""What the scripted teacher writes, one after the other: no two have more than half of their words in common."""
ANSWERS = ("green", "lamp", "four", "sailor", "roof", "storm", "yes", "noon", "mother", "no")
DATASET_QUESTIONS = (
    ("What is the red thing?", "square"),
    ("What colour is the square?", "red"),
    ("How many squares are there?", "1"),
    ("Is the square left of the circle?", "no"),
    ("What does the sign say?", "nothing is written on it"),
    ("What shape is it?", "square"),
    ("Where was this taken?", "indoors"),
    ("Is someone running?", "no"),
    ("Is this a kitchen or a bedroom?", "kitchen"),
)
"""Questions of a dataset: more than are judged in one request."""
DATASET_CAPABILITIES = ((), ("color",), ("counting",), ("shape", "spatial_relationship"), ("text_recognition",))
"""What the scripted verifier says that questions of a dataset need, in turn."""

_CAPABILITY_LINE = re.compile(r"^- (\w+): ", re.MULTILINE)
_COMBINATION_LINE = re.compile(r"^\d+\. (\w+(?:, \w+)*)$", re.MULTILINE)


class Script:
    """A model that writes `QUESTIONS` and remembers what each of them must need.

    Args:
        accepts (`bool`, *optional*, defaults to True): as a verifier, it finds its own questions to need just that.
        reply (`Callable[[str], Response]`, *optional*): wraps a text in the protocol's answer.
    """

    def __init__(self, *, accepts: bool = True, reply: Callable[[str], Response] = gemini.content_response) -> None:
        self.requests: list[ModelRequest] = []
        self._accepts = accepts
        self._reply = reply
        self._draft_count = 0
        self._drafts: dict[str, tuple[str, list[str]]] = {}
        self._dataset_verdicts: dict[str, tuple[str, list[str]]] = {}

    def __call__(self, request: ModelRequest, number: int) -> Response:
        """Answer a request in the server's place."""
        self.requests.append(request)
        name, items = self._items(request)
        if not request.has_list_schema:
            return self._reply(json.dumps(items[0]))
        return self._reply(json.dumps({name: [{"number": index, **item} for index, item in enumerate(items, 1)]}))

    def _items(self, request: ModelRequest) -> tuple[str, list[dict[str, Any]]]:
        if request.role == "teacher":
            combinations = [names.split(", ") for names in _COMBINATION_LINE.findall(request.prompt)]
            return "drafts", [
                self._draft(names) for names in combinations or [_CAPABILITY_LINE.findall(request.prompt)]
            ]
        lines = request.prompt.split("\n\n")[1].split("\n")
        questions = [re.sub(r"^\d+\. ", "", line) for line in lines]
        if request.role == "blind":
            return "answers", [{"answer": "no idea"} for _ in questions]
        return "verdicts", [self._verdict(question) for question in questions]

    def _draft(self, names: list[str]) -> dict[str, Any]:
        index = self._draft_count % len(QUESTIONS)
        self._draft_count += 1
        self._drafts[QUESTIONS[index]] = ANSWERS[index], names
        return {"supported": True, "question": QUESTIONS[index], "answer": ANSWERS[index], "confidence": 90}

    def _verdict(self, question: str) -> dict[str, Any]:
        if question not in self._drafts:
            capabilities = DATASET_CAPABILITIES[len(self._dataset_verdicts) % len(DATASET_CAPABILITIES)]
            answer, names = self._dataset_verdicts.setdefault(question, ("red", list(capabilities)))
        else:
            answer, names = self._drafts[question]
            names = names if self._accepts else []
        return {"capabilities": names, "answer": answer}


def format_prompts(requests: Sequence[ModelRequest]) -> str:
    """Return requests as text: who is asked, by which image, and the prompt."""
    parts = []
    for number, request in enumerate(requests, 1):
        suffix = ", several" if request.has_list_schema else ""
        image = "an image" if request.image else "no image"
        parts.append(f"#### {number}. {request.role}{suffix}, {image}\n\n{request.prompt}\n")
    return "\n".join(parts)


def format_bodies(requests: Sequence[ModelRequest]) -> str:
    """Return the different bodies of requests as JSON, with a place holder for the prompt and the image each."""
    unique = dict.fromkeys(_mask_body(request) for request in requests)
    return "".join(f"{body}\n" for body in unique)


def _mask_body(request: ModelRequest) -> str:
    def mask(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: mask(value) for name, value in part.items()}
        if isinstance(part, list):
            return [mask(item) for item in part]
        if part == request.prompt:
            return "PROMPT"
        # The placeholder of a JPEG, which is another one with another version of Pillow.
        return re.sub(r"/9j/[\w+/=-]{40,}|_9j_[\w+/=-]{40,}", "JPEG", part) if isinstance(part, str) else part

    return json.dumps(mask(request.body), indent=1, ensure_ascii=False)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask_gemini(
    out: Path, *arguments: str, accepts: bool = True, url: str = "--teacher-url", script: Script | None = None
) -> list[ModelRequest]:
    """Run a command one request after the other, and return the requests that its script received, here and before."""
    script = script or Script(accepts=accepts)
    with gemini.GeminiServer(fault=script) as server:
        server.batches.polls_to_finish = 1
        # A run in which nothing was accepted is no success.
        assert main([*arguments, "--out", str(out), "--concurrency", "1", url, server.url]) == (not accepts)
    return script.requests


def make_png(color: tuple[int, int, int]) -> bytes:
    """Return a PNG file of one color, the same bytes with every library: what is drawn depends on them."""
    width, height = 24, 16

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    rows = b"".join(b"\0" + bytes(color) * width for _ in range(height))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 0)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one image."""
    directory = tmp_path_factory.mktemp("images")
    (directory / "red.png").write_bytes(make_png((200, 30, 30)))
    return directory


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in LLaVA's format: one question about one image, nine about another."""
    directory = tmp_path_factory.mktemp("questions")
    for name, color in (("one.png", (0, 0, 128)), ("nine.png", (128, 128, 0))):
        (directory / name).write_bytes(make_png(color))
    items = []
    for name, pairs in (("one.png", DATASET_QUESTIONS[1:2]), ("nine.png", DATASET_QUESTIONS)):
        messages = [
            message
            for question, answer in pairs
            for message in ({"from": "human", "value": question}, {"from": "gpt", "value": answer})
        ]
        messages[0]["value"] = f"<image>\n{messages[0]['value']}"
        items.append({"id": name, "image": name, "conversations": messages})
    (directory / "questions.json").write_text(json.dumps(items))
    return directory / "questions.json"


def iter_first_of_kind(requests: Sequence[ModelRequest]) -> Iterator[ModelRequest]:
    """Yield the first request of every role, alone and with several questions, in their order."""
    kinds = set()
    for request in requests:
        if (kind := (request.role, request.has_list_schema)) not in kinds:
            kinds.add(kind)
            yield request


def test_the_prompts_for_each_capability_alone_are_golden(tmp_path: Path, images: Path, golden: Golden) -> None:
    requests = ask_gemini(tmp_path / "run", "generate", str(images), "--k", "1", accepts=False)
    teacher_requests = [request for request in requests if request.role == "teacher"]
    assert len({request.prompt for request in teacher_requests}) == 10
    golden("prompts_generate_k1.txt", format_prompts([*teacher_requests, *iter_first_of_kind(requests[1:2])]))


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_the_prompts_for_several_capabilities_are_golden(k: int, tmp_path: Path, images: Path, golden: Golden) -> None:
    requests = ask_gemini(tmp_path / "run", "generate", str(images), "--k", str(k), "--strict", "--seed", str(k))
    assert [request.role for request in requests] == ["teacher", "verifier", "blind"] * 3
    golden(f"prompts_generate_k{k}.txt", format_prompts([requests[0], requests[3], *(requests[1:3] if k == 2 else ())]))


def test_the_prompts_and_schemas_of_the_efficient_preset_are_golden(
    tmp_path: Path, images: Path, golden: Golden
) -> None:
    common = ("generate", str(images), "--preset", "efficient", "--strict", "--k", "2")
    single = ask_gemini(tmp_path / "run", *common)
    batched = ask_gemini(tmp_path / "batches", *common, "--teacher", "gemini-batch")
    kinds = [(request.role, request.has_list_schema) for request in single]
    assert kinds[:3] == [("teacher", True), ("verifier", True), ("blind", True)]
    golden(
        "prompts_generate_efficient.txt", format_prompts([*iter_first_of_kind(single), *iter_first_of_kind(batched)])
    )
    golden("requests_gemini_several.txt", format_bodies(single))
    golden("requests_gemini_batch_several.txt", format_bodies(batched))


def test_the_schemas_for_one_question_are_golden(tmp_path: Path, images: Path, golden: Golden) -> None:
    requests = ask_gemini(tmp_path / "run", "generate", str(images), "--k", "3", "--strict")
    golden("requests_gemini_single.txt", format_bodies(list(iter_first_of_kind(requests))))


def test_what_annotating_asks_is_golden(tmp_path: Path, questions_file: Path, golden: Golden) -> None:
    requests = ask_gemini(tmp_path / "run", "annotate", str(questions_file), url="--verifier-url")
    requests.sort(key=lambda request: request.prompt)
    assert sorted(request.has_list_schema for request in requests) == [False, False, True]
    golden("prompts_annotate.txt", format_prompts(requests))


def test_what_augmenting_asks_is_golden(tmp_path: Path, questions_file: Path, golden: Golden) -> None:
    script = Script()
    # One run per image: in one run, the image that is prepared first would be asked about first.
    for number, item in enumerate(reversed(json.loads(questions_file.read_text()))):
        path = questions_file.with_name(f"{number}.json")
        path.write_text(json.dumps([item]))
        ask_gemini(tmp_path / f"run{number}", "augment", str(path), "--strict", script=script)
    teacher_requests = [request for request in script.requests if request.role == "teacher"]
    assert {request.has_list_schema for request in teacher_requests} == {False, True}
    golden("prompts_augment.txt", format_prompts(teacher_requests))


def test_an_openai_server_is_asked_the_same_and_its_requests_are_golden(
    tmp_path: Path, images: Path, golden: Golden
) -> None:
    requests = []
    for number, options in enumerate((("--k", "3"), ("--k", "2", "--preset", "efficient"))):
        arguments = ["generate", str(images), "--strict", "--concurrency", "1", *options]
        script = Script(reply=openai.content_response)
        with openai.OpenAIServer(fault=script) as server:
            url = ["--teacher", "openai:model", "--teacher-url", server.url]
            assert main([*arguments, *url, "--out", str(tmp_path / f"openai-{number}")]) == 0
        gemini_requests = ask_gemini(tmp_path / f"gemini-{number}", *arguments)
        assert [request.prompt for request in script.requests] == [request.prompt for request in gemini_requests]
        requests += iter_first_of_kind(script.requests)
    golden("requests_openai.txt", format_bodies(requests))


def test_what_an_evaluated_model_is_asked_is_golden(tmp_path: Path, golden: Golden) -> None:
    with openai.OpenAIServer() as server:
        arguments = ["evaluate", "openai:model", "scenes:1", "--url", server.url, "--out", str(tmp_path / "results")]
        assert main([*arguments, "--concurrency", "1"]) == 0
        requests = sorted(server.requests, key=lambda request: request.prompt)
    golden("prompts_evaluate.txt", f"{format_bodies(requests)}\n{format_prompts(requests)}")
