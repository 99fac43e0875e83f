"""Assembles rows from the journals of COMPACT and augment, in the order of image ids (step 4; paper, section 3.4).

The result does not depend on timing, interruptions or sharding: the same replies give the same rows in the same order.
Two steps are not in the paper. A question that repeats one about an earlier image is dropped (near_duplicates.py). With
the option `balance`, the questions of images with more than needed are chosen to make the dataset even (balance.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

from compact_hf.answers import SHORT_ANSWER_INSTRUCTION
from compact_hf.capabilities import canonicalize
from compact_hf.methods.assembly import AssemblyOptions, FinishedOutcome, iter_outcomes
from compact_hf.methods.compact.balance import Balance, balance_questions, measure_evenness
from compact_hf.methods.compact.catalog import Choice, Positions, QuestionCatalog
from compact_hf.methods.compact.columns import QuestionRow
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.preset import METHOD, PAPER
from compact_hf.methods.compact.reasons import SelectionReason
from compact_hf.methods.compact.samples import make_question_sample, make_reject_sample
from compact_hf.methods.near_duplicates import NearDuplicates
from compact_hf.methods.row_kind import Filters, Sample
from compact_hf.records import ImageInfo, Message, Reject, Turn, digest
from compact_hf.reports.table import NotebookSummary
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import Journal


def iter_question_rows(journals: Sequence[Journal], options: AssemblyOptions) -> Iterator[QuestionRow | Reject]:
    """Yield a row for each conversation, for runs of COMPACT and of augment together; see `Method.iter_rows`.

    The words of all questions stay in memory to find near-duplicates, and with `balance` also the combinations of each
    image, as numbers: less than 300 bytes per image with four or five questions. With `balance` the runs are read
    twice.

    Args:
        journals (`Sequence[Journal]`): the journals of the runs.
        options (`AssemblyOptions`): which rows and questions to leave out.
    """
    # Generators: one conversation is in memory at a time. The order of steps matters: duplicates go before balancing.
    conversations = _drop_near_duplicates(_iter_conversations(journals), NearDuplicates(options.max_similarity))
    if options.balance:
        conversations = _apply_balance(conversations, journals, options.on_balance)
    for item in conversations:
        yield item if isinstance(item, Reject) else item.to_row()


def make_conversation_sample(outcome: FinishedOutcome, filters: Filters, *, rejects: bool) -> Sample | None:
    """Return how a contact sheet shows an outcome; see `Method.make_outcome_sample`.

    Args:
        outcome (`FinishedOutcome`): the outcome of an image.
        filters (`Filters`): the filters `k` and `capability`.
        rejects (`bool`): whether to show dropped drafts instead of accepted questions.
    """
    parsed, teachers = parse_outcome(outcome.body), outcome.identity.teachers
    # Models as the run was started with, not the versions that replied.
    names = {"caption": outcome.ref, "teacher": teachers["teacher"], "verifier": teachers["verifier"]}
    if rejects:
        return make_reject_sample(parsed, filters=filters, **names)
    turns = parsed.conversation.turns if parsed.conversation is not None else ()
    return make_question_sample(parsed.k, turns, filters=filters, **names)


def build_messages(questions_and_answers: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return the messages of a conversation. The first question is followed by the instruction to answer briefly.

    Args:
        questions_and_answers (`Sequence[tuple[str, str]]`): the questions with their answers, in order.
    """
    messages: list[Message] = []
    for index, (question, answer) in enumerate(questions_and_answers):
        # The instruction is in the first turn only, as in LLaVA-1.5's data.
        content = question if index else f"{question}\n{SHORT_ANSWER_INSTRUCTION}"
        messages += [Message("user", content), Message("assistant", answer)]
    return tuple(messages)


def with_turns(row: QuestionRow, turns: Sequence[Turn]) -> QuestionRow:
    """Return a row with other turns, and with the id, messages and capabilities that follow from them.

    Args:
        row (`QuestionRow`): the row of a conversation.
        turns (`Sequence[Turn]`): the turns of the new row.
    """
    questions_and_answers = [(turn.question, turn.answer) for turn in turns]
    return replace(
        row,
        # The id identifies the content, so the same conversation has the same id in every release.
        id=digest(row.source, row.image_id, questions_and_answers),
        messages=build_messages(questions_and_answers),
        capabilities=canonicalize(name for turn in turns for name in turn.capabilities),
        turns=tuple(turns),
    )


@dataclass(frozen=True, slots=True)
class _ImageConversation:
    """An image with its conversation; the turns at `positions` become part of the dataset."""

    outcome: Outcome
    turns: tuple[Turn, ...]
    positions: Positions
    image: ImageInfo
    finished: FinishedOutcome

    @property
    def min_turns(self) -> int:
        """Number of questions that the image needs to be kept: one is enough for `compact augment`."""
        return PAPER.min_turns if self.finished.method.name == METHOD else 1

    def to_row(self) -> QuestionRow:
        # `with_turns` fills in everything that depends on the turns.
        row = QuestionRow(
            id="",
            messages=(),
            source=self.finished.method.name,
            k=self.outcome.k,
            capabilities=(),
            turns=(),
            image_id=self.image.image_id,
            image_source=self.image.image_source,
            image_license=self.image.image_license,
            teacher=self.outcome.teacher,
            verifier=self.outcome.verifier,
            preset_version=self.finished.identity.settings["preset"],
            read_images=(partial(reread_verified, self.finished.source, self.image),),
        )
        return with_turns(row, [self.turns[position] for position in self.positions])


def _iter_conversations(journals: Sequence[Journal]) -> Iterator[_ImageConversation | Reject]:
    """Yield the rejects and the conversation of each image, with all its turns, in the order of image ids."""
    for item in iter_outcomes(journals):
        if isinstance(item, Reject):
            yield item
            continue
        # Rejects come out even if the conversation is dropped: the release counts them.
        outcome = parse_outcome(item.body)
        yield from outcome.rejects
        if outcome.conversation is None:
            continue
        turns = outcome.conversation.turns
        image = item.get_image()
        # The image was gone when the run was last started: without its bytes there is no row.
        if image is None:
            yield item.reject_gone()
        else:
            yield _ImageConversation(outcome, turns, tuple(range(len(turns))), image, item)


def _drop_near_duplicates(
    conversations: Iterable[_ImageConversation | Reject], near_duplicates: NearDuplicates
) -> Iterator[_ImageConversation | Reject]:
    """Drop questions that repeat one about an earlier image, and images that are left with too few questions."""
    for item in conversations:
        if isinstance(item, Reject):
            yield item
            continue
        min_turns = item.min_turns
        repeats = near_duplicates.add_new(item.turns, min_turns=min_turns)
        for turn, repeat in zip(item.turns, repeats, strict=True):
            if repeat is not None:
                yield Reject("assembly", SelectionReason.NEAR_DUPLICATE, turn.question, repeat, turn.capabilities)
        positions = tuple(position for position, repeat in enumerate(repeats) if repeat is None)
        if len(positions) >= min_turns:
            yield replace(item, positions=positions)
        else:
            detail = f"{len(positions)} of {len(item.turns)} are left, {min_turns} needed"
            yield Reject("assembly", SelectionReason.TOO_FEW, item.image.ref, detail)


def _apply_balance(
    conversations: Iterable[_ImageConversation | Reject],
    journals: Sequence[Journal],
    on_balance: Callable[[NotebookSummary], None],
) -> Iterator[_ImageConversation | Reject]:
    """Choose questions of each image in a first pass over the runs, and yield the chosen ones in a second pass."""
    catalog = QuestionCatalog()
    turn_positions = array("H")  # question number in the catalog -> position among its image's turns
    # First pass: only combinations and positions are kept, a few bytes per question (catalog.py).
    for item in conversations:
        if isinstance(item, Reject):
            yield item
            continue
        catalog.append(item.image.image_id, (item.turns[position].capabilities for position in item.positions))
        turn_positions.extend(item.positions)
    choice = balance_questions(catalog)
    on_balance(_measure_balance(catalog, choice))
    # Second pass: the journals are read again. Rejects were yielded in the first pass.
    for item in _iter_conversations(journals):
        # Images that a running run finished since the first pass are left for the next release.
        if isinstance(item, Reject) or (image := catalog.find(item.image.image_id)) is None:
            continue
        positions = tuple(turn_positions[question] for question in choice.get_taken(image))
        for question in catalog.get_questions(image):
            if not choice.questions[question]:
                turn = item.turns[turn_positions[question]]
                yield Reject("assembly", SelectionReason.SURPLUS, turn.question, "", turn.capabilities)
        yield replace(item, positions=positions)


def _measure_balance(catalog: QuestionCatalog, choice: Choice) -> Balance:
    """Return the evenness of all questions and of the chosen ones."""
    numbers = catalog.combination_numbers
    before, after = (
        measure_evenness(map(catalog.combinations.__getitem__, kept))
        for kept in (numbers, compress(numbers, choice.questions))
    )
    return Balance(before, after)
