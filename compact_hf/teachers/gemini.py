"""Gemini as teacher or verifier: google-genai's requests, types and errors. The key comes from GEMINI_API_KEY or
GOOGLE_API_KEY.

In: requests with a prompt, a picture and a pydantic schema. Out: the model's JSON text, unparsed. One attempt a
request, always with a time-out; the engine retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.base import Failure, Reply, Request, answer_each
from compact_hf.teachers.gemini_protocol import failed, read_response
from compact_hf.teachers.http import key_in, one_line, server_of

# The paper's model, gemini-2.0-flash, was shut down on 2026-06-01: a marked departure. Never a `-latest` alias, so that
# a run asks one model from its first request to its last.
DEFAULT_MODEL: Final = "gemini-3.8-flash"
KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
TIMEOUT_S: Final = 120.0


class Gemini:
    """Ask one Gemini model.

    Args:
        model (`str`, *optional*, defaults to `gemini-3.8-flash`): the model's name, without `models/`.
        url (`str`, *optional*): another server that speaks Gemini's REST protocol.
        timeout_s (`float`, *optional*, defaults to 120): for one request, in seconds.
        key (`str`, *optional*): instead of the environment's, where a server asks on behalf of who gave it.

    Raises:
        UsageError: no usable key given or in the environment, or `url` is not the address of a server.
    """

    ks = range(1, 11)
    in_batches = False
    sources: str | None = None

    def __init__(
        self, model: str = DEFAULT_MODEL, *, url: str | None = None, timeout_s: float = TIMEOUT_S, key: str = ""
    ) -> None:
        self._key = key or key_in(KEY_VARIABLES)
        if not self._key:
            raise UsageError(
                "the teacher gemini needs a key and found none: set GEMINI_API_KEY (or GOOGLE_API_KEY) in the "
                "environment, or try without one: compact generate scenes:200 --out RUN"
            )
        self._server = "the Gemini API" if url is None else server_of(url)
        self.name = f"gemini:{model}"
        self._model = model
        self._timeout_s = timeout_s
        # Here and not when the first request comes: the imports take a second, in which nothing else could happen.
        from compact_hf.teachers.connections import Connections
        from compact_hf.teachers.gemini_requests import Requests

        self._requests = Requests(model, key=self._key, url=url, timeout_s=timeout_s)
        self._connections = Connections()

    async def prepare(self, request: Request) -> None:
        """See `Teacher.prepare`: the picture is encoded."""
        if request.exposure is not None:
            await request.exposure.base64()

    async def ask(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """See `Teacher.ask`."""
        async for item in answer_each(requests, self._answer):
            yield item

    async def flush(self) -> None:
        """Nothing is ever held back."""

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _answer(self, request: Request) -> Reply | Failure:
        import httpx
        from google.genai.errors import APIError

        from compact_hf.teachers.gemini_requests import read

        written = await self._requests.written(request)
        try:
            # httpx counts its time-out from one byte to the next; a server that drips would be waited for without end.
            async with asyncio.timeout(self._timeout_s):
                response = await self._connections.send(written)
            await APIError.raise_for_async_response(response)
            answer = read(response.content)
        except APIError as error:
            failure = failed(request.key, error, teacher=self.name, secret=self._key)
        except (TimeoutError, httpx.TimeoutException):
            failure = Failure(request.key, f"{self._server} gave no answer within {self._timeout_s:g} s")
        except (httpx.ConnectError, OSError) as error:
            # The name of the error alone would not tell a wrong name from a wrong certificate.
            said = one_line(str(error)) or type(error).__name__
            failure = Failure(request.key, f"{self._server} cannot be reached ({said})")
        except httpx.HTTPError as error:
            failure = Failure(request.key, f"the connection to {self._server} broke off ({type(error).__name__})")
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # A truncated or a foreign body; the client's reading of errors ends in any of these.
            failure = Failure(request.key, f"the reply of {self._server} is not Gemini's JSON ({type(error).__name__})")
        else:
            return read_response(request.key, answer, self._model)
        # Raised out here, where no traceback shows the error behind it, which may quote the key.
        if isinstance(failure, TeacherError):
            raise failure
        return failure
