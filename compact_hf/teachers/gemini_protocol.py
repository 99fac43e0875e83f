"""What Gemini is asked and answers, whichever way the requests travel: settings, responses and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from compact_hf.errors import TeacherError
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.http import one_line, seconds, tokens

if TYPE_CHECKING:
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentConfig, GenerateContentResponse

_OVERLOADED: Final = (429, 503)
_BAD_KEY: Final = (401, 403)


def config_for(request: Request) -> GenerateContentConfig:
    """Return the settings of a request."""
    from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

    # No temperature: current models no longer take it (RECIPE's marked departure).
    return GenerateContentConfig(
        response_mime_type="application/json",
        response_schema=request.schema,
        thinking_config=ThinkingConfig(thinking_level=ThinkingLevel.LOW),
        store=False,
    )


def failed(key: str, error: APIError, *, teacher: str, secret: str) -> Failure | TeacherError:
    """Say what an error of the service means: a failure of the request `key`, or the end of all asking.

    `teacher` is the name under which it is spoken of; `secret`, the API key, is cut out of what the service says.
    """
    said = one_line(str(error.message or error.status or "no message").replace(secret, "<key>"))
    if error.code in _BAD_KEY or "API_KEY_INVALID" in str(error.details):
        return TeacherError(
            f"{teacher} refuses the key ({error.code}: {said}); set a valid GEMINI_API_KEY and run the same command"
        )
    if error.code == 404:
        name = teacher.partition(":")[0]
        return TeacherError(
            f"{teacher} is not there ({error.code}: {said}); name a model that exists with --teacher {name}:MODEL, "
            "and check --teacher-url where one is given"
        )
    return Failure(
        key,
        f"{error.code} {said}",
        overloaded=error.code in _OVERLOADED,
        retry_after=retry_delay(error),
        worth_retrying=error.code >= 500 or error.code in (408, 429),
    )


def retry_delay(error: APIError) -> float | None:
    """Return the seconds that the server asks to wait, or None: the SDK itself ignores them.

    They stand in `google.rpc.RetryInfo` in the error's body; proxies only send the header `Retry-After`.
    """
    body = error.details
    for name in ("error", "details"):
        body = body.get(name) if isinstance(body, Mapping) else None
    for detail in body if isinstance(body, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
            if found:
                return float(found[1])
    return seconds(getattr(error.response, "headers", {}).get("retry-after", ""))


def read_response(key: str, response: GenerateContentResponse, model: str) -> Reply | Failure:
    """Turn a response into a reply. A blocked prompt, a blocked answer and an unfinished one are refusals."""
    usage = response.usage_metadata
    if not (response.candidates or response.prompt_feedback or usage):
        # JSON, but of somebody else: not to be kept as an answer.
        return Failure(key, "the reply holds nothing that Gemini's replies hold")
    spent_in = tokens(usage.prompt_token_count) if usage else 0
    spent_out = tokens(usage.candidates_token_count) + tokens(usage.thoughts_token_count) if usage else 0
    text, refused = "", ""
    if not response.candidates:
        feedback = response.prompt_feedback
        reason = feedback.block_reason if feedback else None
        refused = f"prompt blocked: {reason.value}" if reason else "no candidates"
    else:
        candidate = response.candidates[0]
        finish = candidate.finish_reason.value if candidate.finish_reason else "missing"
        parts = (candidate.content.parts or []) if candidate.content else []
        text = "".join(part.text for part in parts if part.text and not part.thought)
        if finish != "STOP":
            text, refused = "", f"finish reason {finish}"
        elif not text:
            refused = "empty answer"
    return Reply(
        key,
        # JSON may spell halves of surrogate pairs, which are no text and cannot be written down.
        text=text.encode(errors="replace").decode(),
        refused=refused,
        model=f"gemini:{one_line(response.model_version or model)}",
        input_tokens=spent_in,
        output_tokens=spent_out,
    )
