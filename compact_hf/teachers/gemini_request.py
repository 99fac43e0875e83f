"""Builds the JSON of requests to Gemini, both for single requests and for the lines of a batch.

google-genai copies the image several times per request and converts settings and schema each time, which takes more
time than all other work. This module converts the settings once per schema, and inserts the encoded image unchanged.
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
    """Return the settings of a request, as google-genai's type.

    Args:
        schema (`type[pydantic.BaseModel]`): schema of the JSON reply.
    """
    from google.genai.types import GenerateContentConfig, ThinkingConfig, ThinkingLevel

    # Departure from the paper: no temperature, because current models no longer accept it.
    return GenerateContentConfig(
        response_mime_type="application/json",
        response_schema=schema,
        thinking_config=ThinkingConfig(thinking_level=ThinkingLevel.LOW),
        store=False,
    )


async def build_body(request: Request) -> bytes:
    """Return the body of a request to `models.generateContent` of Gemini's REST API.

    Args:
        request (`Request`): the request.

    Raises:
        SourceError: the image of the request can no longer be read.
    """
    image = b""
    if request.encoded_image is not None:
        data = await request.encoded_image.base64()
        # Joined as bytes: base64 needs no escaping, and a JSON encoder would copy the image.
        image = b'{"inlineData":{"data":"%b","mimeType":"image/jpeg"}},' % data.encode()
    text = json.dumps(request.prompt).encode()
    return b'{"contents":[{"parts":[%b{"text":%b}],"role":"user"}],%b}' % (image, text, _settings(request.schema))


@lru_cache(maxsize=16)
def _settings(schema: type[BaseModel]) -> bytes:
    """Return the JSON members, without braces, that all requests with a schema share."""
    config = config_for(schema)
    # `store` is a member of the request itself, and the schema is converted below.
    excluded = {"response_schema", "response_json_schema", "store"}
    settings = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=excluded)
    members = {"generationConfig": {**settings, "responseSchema": _gemini_schema(schema)}, "store": config.store}
    return json.dumps(members)[1:-1].encode()


def _gemini_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Return a schema in Gemini's own schema format.

    Batches accept a plain JSON schema (`responseJsonSchema`) too, but were observed not to follow it.
    """
    from google.genai.types import JSONSchema, Schema

    gemini_schema = Schema.from_json_schema(json_schema=JSONSchema.model_validate(schema.model_json_schema()))
    return _add_property_order(gemini_schema.model_dump(mode="json", by_alias=True, exclude_none=True))


def _add_property_order(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with `propertyOrdering`, as google-genai adds it: models write the fields in this order."""
    if "items" in schema:
        schema = {**schema, "items": _add_property_order(schema["items"])}
    if "properties" in schema:
        fields = {name: _add_property_order(field) for name, field in schema["properties"].items()}
        schema = {**schema, "properties": fields, "propertyOrdering": list(fields)}
    return schema
