"""The columns of a release: one explicit `datasets.Features`, and the way from a `Row` to a record of it.

In: a `Row` and its cleaned picture. Out: the dict that a Parquet writer takes. Every file of every leaf is written
with this one schema, so that no config mixes types (a CastError at `load_dataset` otherwise).
"""

from __future__ import annotations

from typing import Any

from compact_hf.records import Row


def features() -> Any:
    """Return the `datasets.Features` of a row (DESIGN, "A row of a release").

    `images` holds one picture or none; `k`, `teacher`, `verifier` and `preset_version` are null for instruction
    rows; `image_id`, `image_source` and `image_license` are null for rows without a picture.
    """
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int64")
    return Features(
        {
            "id": text,
            "images": List(Image()),
            "messages": List({"role": text, "content": text}),
            "k": number,
            "capabilities": List(text),
            "turns": List(
                {
                    "question": text,
                    "answer": text,
                    "capabilities": List(text),
                    "verified_capabilities": List(text),
                    "confidence": number,
                }
            ),
            "source": text,
            "image_id": text,
            "image_source": text,
            "image_license": text,
            "teacher": text,
            "verifier": text,
            "preset_version": text,
        }
    )


def features_in_card() -> list[dict[str, Any]]:
    """Return the features as `dataset_info` in a card's header spells them."""
    # The one way to this spelling that does not go through a card of `datasets`' own making.
    spelled: list[dict[str, Any]] = features()._to_yaml_list()
    return spelled


def record(row: Row, picture: bytes | None) -> dict[str, Any]:
    """Return `row` as a record of `features()`, with `picture` (an encoded file) embedded without a path."""
    return {
        "id": row.id,
        "images": [] if picture is None else [{"bytes": picture, "path": None}],
        "messages": [{"role": message.role, "content": message.content} for message in row.messages],
        "k": row.k,
        "capabilities": list(row.capabilities),
        "turns": [
            {
                "question": turn.question,
                "answer": turn.answer,
                "capabilities": list(turn.capabilities),
                "verified_capabilities": list(turn.verified_capabilities),
                "confidence": turn.confidence,
            }
            for turn in row.turns
        ],
        "source": row.source,
        "image_id": row.image_id,
        "image_source": row.image_source,
        "image_license": row.image_license,
        "teacher": row.teacher,
        "verifier": row.verifier,
        "preset_version": row.preset_version,
    }
