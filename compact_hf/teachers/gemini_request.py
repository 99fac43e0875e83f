"""Requests to Gemini as JSON: the one place that writes them, for single requests and for the lines of a batch.

google-genai copies the image several times for every request, and converts settings and schema anew, which takes more
time than all the rest. Here the settings of each schema are written once, and an image is put between them as it is.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from compact_hf.teachers.base import Request

if TYPE_CHECKING:
    from google.genai.types import GenerateContentConfig
    from pydantic import BaseModel


def config_for(schema: type[BaseModel]) -> GenerateContentConfig:
    """Return the settings of a request for JSON of this schema, as google-genai takes them."""
    from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

    # No temperature: current models no longer take it (RECIPE's marked departure).
    return GenerateContentConfig(
        response_mime_type="application/json",
        response_schema=schema,
        thinking_config=ThinkingConfig(thinking_level=ThinkingLevel.LOW),
        store=False,
    )


async def build_body(request: Request) -> bytes:
    """Return the body of `models.generateContent`, in the words of Gemini's REST protocol.

    Raises:
        SourceError: the request's image cannot be read any more.
    """
    image = b""
    if request.encoded_image is not None:
        data = await request.encoded_image.base64()
        image = b'{"inlineData":{"data":"%b","mimeType":"image/jpeg"}},' % data.encode()
    text = json.dumps(request.prompt).encode()
    return b'{"contents":[{"parts":[%b{"text":%b}],"role":"user"}],%b}' % (image, text, _settings(request.schema))


@lru_cache(maxsize=16)
def _settings(schema: type[BaseModel]) -> bytes:
    """Return the members of the body that are the same for every request of a schema."""
    config = config_for(schema)
    excluded = {"response_schema", "response_json_schema", "store"}
    settings = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=excluded)
    members = {"generationConfig": {**settings, "responseSchema": _gemini_schema(schema)}, "store": config.store}
    return json.dumps(members)[1:-1].encode()


def _gemini_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return a schema in Gemini's words: a batch takes `responseJsonSchema` too, but was seen not to keep to it."""
    from google.genai.types import JSONSchema, Schema

    gemini_schema = Schema.from_json_schema(json_schema=JSONSchema.model_validate(schema.model_json_schema()))
    return _add_property_order(gemini_schema.model_dump(mode="json", by_alias=True, exclude_none=True))


def _add_property_order(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its fields' order spelled out, as the SDK does: a model writes them in it."""
    if "items" in schema:
        schema = {**schema, "items": _add_property_order(schema["items"])}
    if "properties" in schema:
        fields = {name: _add_property_order(field) for name, field in schema["properties"].items()}
        schema = {**schema, "properties": fields, "propertyOrdering": list(fields)}
    return schema
