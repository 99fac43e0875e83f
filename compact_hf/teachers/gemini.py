"""Gemini as teacher or verifier, through google-genai. The key comes from GEMINI_API_KEY or GOOGLE_API_KEY.

In: requests with a prompt, a picture and a pydantic schema. Out: the model's JSON text, unparsed. One attempt a
request, always with a time-out; the engine retries.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.gemini_protocol import config_for, failed, read_response
from compact_hf.teachers.teacher import Failure, Reply, Request, answer_each
from compact_hf.teachers.wire import key_in, server_of

if TYPE_CHECKING:
    import httpx
    from google.genai import Client

# The paper's model, gemini-2.0-flash, was shut down on 2026-06-01: a marked departure. Never a `-latest` alias, so that
# a run asks one model from its first request to its last.
DEFAULT_MODEL: Final = "gemini-3.8-flash"
KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
TIMEOUT_S: Final = 120.0
_MAX_CONNECTIONS: Final = 1024


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
    in_batches = False
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

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`: the picture is encoded."""
        if request.exposure is not None:
            await request.exposure.base64()

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
        contents, config = Content(role="user", parts=parts), config_for(request)
        try:
            response = await self._client.aio.models.generate_content(
                model=self._model, contents=contents, config=config
            )
        except APIError as error:
            failure = failed(request.key, error, teacher=self.name, secret=self._key)
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
            return read_response(request.key, response, self._model)
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        if isinstance(failure, TeacherError):
            raise failure
        return failure
