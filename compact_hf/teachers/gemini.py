"""Gemini as teacher or verifier, through google-genai. The key comes from GEMINI_API_KEY or GOOGLE_API_KEY.

In: requests with a prompt, a picture and a pydantic schema. Out: the model's JSON text, unparsed. One attempt a
request, always with a time-out; the engine retries.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.teacher import Failure, Reply, Request, answer_each
from compact_hf.teachers.wire import key_in, one_line, seconds, server_of

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
        UsageError: no usable key in the environment, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    sources: str | None = None

    def __init__(self, model: str = DEFAULT_MODEL, *, url: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._key = key_in(KEY_VARIABLES)
        if not self._key:
            raise UsageError(
                "the teacher gemini needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment, or try without one: compact generate scenes:200 --out RUN"
            )
        self._server = "the Gemini API" if url is None else server_of(url)
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
        contents, config = Content(role="user", parts=parts), self._config(request)
        try:
            response = await self._client.aio.models.generate_content(
                model=self._model, contents=contents, config=config
            )
        except APIError as error:
            failure = self._failed(request, error)
        except (TimeoutError, httpx.TimeoutException):
            failure = Failure(request.key, f"{self._server} gave no answer within {self._timeout_s:g} s")
        except (httpx.ConnectError, OSError) as error:
            failure = Failure(request.key, f"{self._server} cannot be reached ({type(error).__name__})")
        except httpx.HTTPError as error:
            failure = Failure(request.key, f"the connection to {self._server} broke off ({type(error).__name__})")
        except (ValueError, TypeError, AttributeError) as error:
            # The SDK reads bodies without looking at what they are: a truncated or foreign one ends in any of these.
            failure = Failure(request.key, f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})")
        else:
            return _read(request, response, self._model)
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        if isinstance(failure, TeacherError):
            raise failure
        return failure

    def _config(self, request: Request) -> GenerateContentConfig:
        from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

        # No temperature: current models no longer take it (RECIPE's marked departure).
        return GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=request.schema,
            thinking_config=ThinkingConfig(thinking_level=ThinkingLevel.LOW),
            store=False,
        )

    def _failed(self, request: Request, error: APIError) -> Failure | TeacherError:
        said = one_line(str(error.message or error.status or "no message").replace(self._key, "<key>"))
        if error.code in _BAD_KEY or "API_KEY_INVALID" in str(error.details):
            return TeacherError(
                f"{self.name} refuses the key ({error.code}: {said}); "
                "set a valid GEMINI_API_KEY and run the same command"
            )
        if error.code == 404:
            return TeacherError(
                f"{self.name} is not there ({error.code}: {said}); name a model that exists with --teacher gemini:MODEL"
            )
        return Failure(
            request.key,
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


def _read(request: Request, response: GenerateContentResponse, model: str) -> Reply | Failure:
    """Turn a response into a reply. A blocked prompt, a blocked answer and an unfinished one are refusals."""
    usage = response.usage_metadata
    if not (response.candidates or response.prompt_feedback or usage):
        # JSON, but of somebody else: not to be kept as an answer.
        return Failure(request.key, "the reply holds nothing that Gemini's replies hold")
    spent_in = (usage.prompt_token_count or 0) if usage else 0
    spent_out = ((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0
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
        request.key,
        # JSON may spell halves of surrogate pairs, which are no text and cannot be written down.
        text=text.encode(errors="replace").decode(),
        refused=refused,
        model=f"gemini:{one_line(response.model_version or model)}",
        input_tokens=spent_in,
        output_tokens=spent_out,
    )
