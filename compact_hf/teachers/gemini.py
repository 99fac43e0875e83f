"""Gemini as teacher or verifier, through google-genai. The key comes from GEMINI_API_KEY or GOOGLE_API_KEY.

In: requests with a prompt, a picture and a pydantic schema. Out: the model's JSON text, unparsed. One attempt a
request, always with a time-out; the engine retries.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.teacher import Failure, Reply, Request, answer_each

if TYPE_CHECKING:
    import httpx
    from google.genai import Client
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentConfig, GenerateContentResponse

# The paper's model, gemini-2.0-flash, was shut down on 2026-06-01: a marked departure. Never a `-latest` alias, so that
# a run asks one model from its first request to its last.
DEFAULT_MODEL: Final = "gemini-3.8-flash"
KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
TIMEOUT_S: Final = 120.0
_MAX_CONNECTIONS: Final = 1024
_OVERLOADED: Final = (429, 503)
_BAD_KEY: Final = (401, 403)


class Gemini:
    """Ask one Gemini model.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): the model's name, without `models/`.
        url (`str`, *optional*): another server that speaks Gemini's REST protocol.
        timeout_s (`float`, *optional*, defaults to 120): for one request, in seconds.

    Raises:
        UsageError: no key in the environment.
    """

    ks = range(1, 11)
    sources: str | None = None

    def __init__(self, model: str = DEFAULT_MODEL, *, url: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._key = next((key for name in KEY_VARIABLES if (key := os.environ.get(name, "").strip())), "")
        if not self._key:
            raise UsageError(
                "the teacher gemini needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment, or try without one: compact generate scenes:200 --out RUN"
            )
        if url is not None and not re.match(r"https?://[^/]", url):
            raise UsageError(f"got the teacher URL {url!r}; it must start with http:// or https:// and name a server")
        self.name = f"gemini:{model}"
        self._model = model
        self._url = url
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._http: httpx.AsyncClient | None = None

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        self._client = self._client or self._connect()
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aio.aclose()
            self._client = None
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _connect(self) -> Client:
        import httpx
        from google.genai import Client
        from google.genai.types import HttpOptions

        # Our own httpx client: the SDK would otherwise pick one of three by what happens to be installed, each with
        # its own errors and limits.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout_s, pool=None),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
        )
        options = HttpOptions(base_url=self._url, timeout=round(self._timeout_s * 1000), httpx_async_client=self._http)
        return Client(api_key=self._key, vertexai=False, http_options=options)

    async def _answer(self, request: Request) -> Reply | Failure:
        import httpx
        from google.genai.errors import APIError
        from google.genai.types import Content, Part

        if self._client is None:
            raise TeacherError("the teacher gemini was closed")
        parts = [Part.from_text(text=request.prompt)]
        if request.exposure is not None:
            parts.insert(0, Part.from_bytes(data=await request.exposure.jpeg(), mime_type="image/jpeg"))
        contents = Content(role="user", parts=parts)
        try:
            response = await self._client.aio.models.generate_content(
                model=self._model, contents=contents, config=self._config(request)
            )
        except APIError as error:
            return self._failed(request, error)
        except TimeoutError:
            return Failure(request.key, f"no answer within {self._timeout_s:.0f} s")
        except (httpx.HTTPError, OSError) as error:
            return Failure(request.key, f"{self._url or 'the Gemini API'} cannot be reached ({type(error).__name__})")
        except ValueError as error:
            # The SDK parses the body itself: a truncated or foreign one is a broken transfer, not an answer.
            return Failure(request.key, f"the reply is not Gemini's JSON ({type(error).__name__})")
        return _read(request, response, self._model)

    def _config(self, request: Request) -> GenerateContentConfig:
        from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

        # No temperature: current models no longer take it (RECIPE's marked departure).
        return GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=request.schema,
            thinking_config=ThinkingConfig(thinking_level=ThinkingLevel.LOW),
            store=False,
        )

    def _failed(self, request: Request, error: APIError) -> Failure:
        said = " ".join((error.message or error.status or "no message").split()).replace(self._key, "<key>")
        if error.code in _BAD_KEY or "API_KEY_INVALID" in str(error.details):
            raise TeacherError(
                f"{self.name} refuses the key ({error.code}: {said}); "
                "set a valid GEMINI_API_KEY and run the same command"
            )
        if error.code == 404:
            raise TeacherError(
                f"{self.name} is not there ({error.code}: {said}); name a model that exists with --teacher gemini:MODEL"
            )
        return Failure(
            request.key,
            f"{error.code} {said}",
            overloaded=error.code in _OVERLOADED,
            retry_after=retry_delay(error.details),
            worth_retrying=error.code >= 500 or error.code in (408, 429),
        )


def retry_delay(details: Any) -> float | None:
    """Return the seconds of `google.rpc.RetryInfo` in an error's body, or None: the SDK itself ignores them."""
    body = details.get("error", details) if isinstance(details, Mapping) else {}
    for detail in body.get("details") or []:
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
            if found:
                return float(found[1])
    return None


def _read(request: Request, response: GenerateContentResponse, model: str) -> Reply:
    """Turn a response into a reply. A blocked prompt, a blocked answer and an unfinished one are refusals."""
    usage = response.usage_metadata
    spent_in = (usage.prompt_token_count or 0) if usage else 0
    spent_out = ((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0
    text, refused = "", ""
    if not response.candidates:
        feedback = response.prompt_feedback
        reason = feedback.block_reason if feedback else None
        refused = f"prompt blocked: {reason.value}" if reason else "no candidates"
    else:
        candidate = response.candidates[0]
        finish = candidate.finish_reason.value if candidate.finish_reason else "no finish reason"
        parts = (candidate.content.parts or []) if candidate.content else []
        text = "".join(part.text for part in parts if part.text and not part.thought)
        if finish != "STOP":
            text, refused = "", f"finish reason {finish}"
        elif not text:
            refused = "empty answer"
    return Reply(
        request.key,
        text=text,
        refused=refused,
        model=f"gemini:{response.model_version or model}",
        input_tokens=spent_in,
        output_tokens=spent_out,
    )
