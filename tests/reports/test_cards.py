"""Tests contact sheets as PNG: legible for any text, deterministic; the README's figure is the output of its script."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

from PIL import Image, ImageChops

from compact_hf.records import Reject, Turn
from compact_hf.reports.contact_sheet import Entry, QuestionItem, render_image_with_questions, render_sheet
from compact_hf.scenes.questions import analyze_question
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import build_scene

from .samples import make_image, make_sheet_item

IMAGES_DIRECTORY = Path(__file__).parents[2] / "docs" / "assets"
DROPPED = Reject("verification", "needs fewer capabilities", "Is it?", "no", ("color", "counting"))


def test_the_png_sheet_has_a_column_per_picture_and_survives_a_runaway_question() -> None:
    runaway = Turn("word " * 3000, "unbroken" * 500, ("color",), ("color",), 90)
    with Image.open(
        io.BytesIO(
            render_sheet(
                [make_sheet_item(1, 1), QuestionItem(make_image(2), 3, (runaway,)), make_sheet_item(3, 2)], columns=3
            )
        )
    ) as image:
        assert image.format == "PNG"
        assert image.width == 3 * 400 + 4 * 20
        assert image.height < 1200


def test_the_png_sheet_is_the_same_every_time() -> None:
    assert render_sheet([make_sheet_item(1, 1), make_sheet_item(2, 2)]) == render_sheet(
        [make_sheet_item(1, 1), make_sheet_item(2, 2)]
    )


def test_the_png_sheet_grows_with_what_was_dropped() -> None:
    heights = []
    for dropped in ((), (DROPPED,), (DROPPED, DROPPED)):
        with Image.open(
            io.BytesIO(render_sheet([QuestionItem(make_image(1), 2, (), "a.png", dropped)], columns=1))
        ) as image:
            heights.append(image.height)
    assert heights == sorted(set(heights))


def test_a_ladder_is_as_tall_as_its_words_and_at_least_as_its_picture() -> None:
    entry = Entry("word " * 40, "yes", ("color", "counting"))
    heights = []
    for count in (1, 9):
        with Image.open(io.BytesIO(render_image_with_questions(make_image(1), [entry] * count))) as image:
            heights.append(image.height)
    assert heights[0] == 400 + 2 * 20
    assert heights[1] > 9 * 100


def test_readmes_picture_of_k_is_what_its_script_draws_and_its_questions_need_what_it_says() -> None:
    script = runpy.run_path(str(IMAGES_DIRECTORY / "explain_k.py"))
    scene, entries = build_scene(script["SCENE"]), script["entries"]()
    for number, entry in enumerate(entries):
        analysis = analyze_question(scene, entry.question)
        assert analysis is not None
        assert (analysis.answer, analysis.capabilities) == (entry.verdict, entry.capabilities)
        assert len(entry.capabilities) == number + 1
    with (
        Image.open(IMAGES_DIRECTORY / "k.png") as expected,
        Image.open(io.BytesIO(render_image_with_questions(render_png(scene), entries))) as image,
    ):
        assert ImageChops.difference(expected, image).getbbox() is None
