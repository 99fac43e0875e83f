"""Tests that a card that was edited by hand is recognized, wherever it is, and never replaced without a word."""

from __future__ import annotations

import pytest

from compact_hf.hub.card import is_edited, mark_card

GENERATED = mark_card("---\nlicense: mit\n---\n\n# Things\n\nMade by a program.\n")


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        (GENERATED, False),
        (GENERATED.rstrip(), False),
        (GENERATED.replace("Things", "My things"), True),
        (GENERATED.replace("mit", "apache-2.0"), True),
        (f"{GENERATED}\nThanks to all annotators.\n", True),
        ("\n".join(GENERATED.splitlines()[:-1]), True),
        ("A card of my own.", True),
        ("", False),
        ("---\nlicense: mit\n---\n", False),
        ("---\nlicense: mit\n---\nMine.", True),
        ("---\ntags:\n- generated_from_trainer\n---\n# Model Card", False),
        ("# Model Card\n\n[More Information Needed]", False),
        (
            "# A\n<!-- compact_hf writes this card anew; take this line out, and it leaves your own words alone. -->",
            False,
        ),
    ],
)
def test_a_card_counts_as_edited_as_soon_as_a_word_of_it_is(text: str, edited: bool) -> None:
    assert is_edited(text) == edited
