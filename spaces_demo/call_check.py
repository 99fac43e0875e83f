"""Checks the body of a call before Gradio runs a function of the page: the function, its inputs and their types.

Gradio checks values only after it has queued the call, and some not at all: a wrong type then ends in a traceback in
the log of the Space, and the visitor gets an error without a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import gradio as gr
from pydantic import TypeAdapter, ValidationError

_MAX_SESSION_CHARS: Final = 64  # Gradio's page uses 11 characters, its Python client 36


class CallError(ValueError):
    """Raised for a call that no function of the page can answer; its message is meant for the client."""


class PageFunction(Protocol):
    """What `CallCheck` uses of a function of the page, Gradio's `BlockFunction`."""

    api_name: Any
    inputs: Any


class CallCheck:
    """Checks calls against the functions of a page.

    Args:
        functions (`Mapping[int, PageFunction]`): the functions by their number, `fns` of Gradio's `Blocks`.
    """

    def __init__(self, functions: Mapping[int, PageFunction]) -> None:
        self._names = {
            number: [_get_name(block) for block in function.inputs] for number, function in functions.items()
        }
        self._types = {
            number: TypeAdapter(tuple[*map(_find_type, function.inputs)])  # type: ignore[misc]
            for number, function in functions.items()
        }
        self._numbers = {function.api_name: number for number, function in functions.items() if function.api_name}

    def check(self, body: Any, api_name: str) -> None:
        """Check one call.

        Args:
            body (`Any`): the JSON of the request.
            api_name (`str`): name of the function in the path of the request; used if the body has no `fn_index`.

        Raises:
            CallError: there is no such function, or its inputs are not as many or not of the types that it needs.
        """
        if not isinstance(body, dict):
            raise CallError("the body of a call has to be a JSON object")
        session = body.get("session_hash")
        if session is not None and not (isinstance(session, str) and len(session) <= _MAX_SESSION_CHARS):
            raise CallError(f"session_hash has to be a string of at most {_MAX_SESSION_CHARS} characters")
        number = body.get("fn_index")
        if number is None:
            number = self._numbers.get(api_name)
        # `True` would be the function 1.
        if type(number) is not int or number not in self._types:
            raise CallError("the page has no such function")
        values, names = body.get("data"), self._names[number]
        if not isinstance(values, list) or len(values) != len(names):
            raise CallError(f"data has to be a list of {len(names)} inputs")
        try:
            self._types[number].validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            # Without the value, which may be a key.
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise CallError(f"{names[int(first['loc'][0])]}: {first['msg']}") from None


def _get_name(block: Any) -> str:
    return getattr(block, "label", None) or type(block).__name__


def _find_type(block: Any) -> Any:
    """Return the type of the values that a component accepts from a client.

    Raises:
        TypeError: the type of this kind of component is not known.
    """
    # Images and keys.
    if getattr(block, "data_model", None) is not None:
        return block.data_model | None
    match block:
        case gr.CheckboxGroup():
            return list[Literal[tuple(value for _, value in block.choices)]]  # type: ignore[misc]
        case gr.Radio() | gr.Dropdown():
            choice: Any = Literal[tuple(value for _, value in block.choices)]
            # A visitor cannot deselect a choice.
            return choice if block.value is not None else choice | None
        case gr.Checkbox():
            return bool
        case gr.Number():
            return float | None
        case gr.Textbox() | gr.HTML():
            return str | None
        # Its value stays on the server.
        case gr.State():
            return None
        case gr.Dataset():
            return int
    raise TypeError(f"the values of {type(block).__name__} are not checked yet: add their type here")
