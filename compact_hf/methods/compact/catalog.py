"""Stores which questions there are and which are chosen, as mappings over millions of images backed by flat arrays.

A dictionary of tuples takes half a kilobyte per image; a catalog takes 20 bytes per image and 2 bytes per question.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Self

from compact_hf.methods.compact.sampling import Combination

Positions = tuple[int, ...]


class QuestionCatalog(Mapping[str, tuple[Combination, ...]]):
    """Maps an image id to the combination of each of its questions, which all have the same k.

    Images and questions are numbered in the order in which they are appended: first the questions of image 0, then
    those of image 1, and so on.

    Attributes:
        combinations (`list[Combination]`): the combinations that occur.
        combination_numbers (`array[int]`): for each question the index of its combination in `combinations`.
    """

    def __init__(self) -> None:
        self.combinations: list[Combination] = []
        # 16 bits are enough: ten capabilities have 1,023 combinations.
        self.combination_numbers = array("H")
        self._numbers: dict[Combination, int] = {}
        # Per image: both halves of its 128-bit id, and the number of the question after its last one.
        self._ids_high, self._ids_low, self._ends = array("Q"), array("Q"), array("I")
        # Whether ids were appended in strictly ascending order, as by `iter_outcomes`; `find` needs it.
        self._is_sorted = True

    def append(self, image_id: str, questions: Iterable[Combination]) -> None:
        """Add an image.

        Args:
            image_id (`str`): 32 hex digits. Lookups by id work only if images are appended in ascending order of ids;
                otherwise call `sort` first.
            questions (`Iterable[Combination]`): the combination of each of its questions.
        """
        for combination in questions:
            number = self._numbers.setdefault(combination, len(self.combinations))
            if number == len(self.combinations):
                self.combinations.append(combination)
            self.combination_numbers.append(number)
        high, low = _split_id(image_id)
        if self._ends and (high, low) <= (self._ids_high[-1], self._ids_low[-1]):
            self._is_sorted = False
        self._ids_high.append(high)
        self._ids_low.append(low)
        self._ends.append(len(self.combination_numbers))

    def sort(self) -> Self:
        """Return the catalog with images in the order of their ids; of several with the same id only the last."""
        if self._is_sorted:
            return self
        result = type(self)()
        # Rare, so it may take the memory of a dictionary. A later image replaces an earlier one with the same id.
        for image_id, questions in sorted(
            {self.get_id(image): self._read(image) for image in range(len(self))}.items()
        ):
            result.append(image_id, questions)
        return result

    def find(self, image_id: str) -> int | None:
        """Return the number of an image, None if there is no such image.

        Args:
            image_id (`str`): 32 hex digits.
        """
        high, low = _split_id(image_id)
        image = bisect_left(self._ids_high, high)
        while image < len(self._ids_high) and self._ids_high[image] == high:
            if self._ids_low[image] == low:
                return image
            image += 1  # ids with the same upper half are sorted by the lower half
        return None

    def find_image_of(self, question: int) -> int:
        """Return the number of the image that a question is about.

        Args:
            question (`int`): the number of the question.
        """
        # Ends are exclusive, so a question that equals an end belongs to the next image.
        return bisect_right(self._ends, question)

    def get_id(self, image: int) -> str:
        """Return the id of an image.

        Args:
            image (`int`): the number of the image.
        """
        return f"{self._ids_high[image]:016x}{self._ids_low[image]:016x}"

    def get_questions(self, image: int) -> range:
        """Return the numbers of an image's questions.

        Args:
            image (`int`): the number of the image.
        """
        return range(self._ends[image - 1] if image else 0, self._ends[image])

    def get_k(self, image: int) -> int | None:
        """Return the k of an image's questions, None if it has no questions.

        Args:
            image (`int`): the number of the image.
        """
        questions = self.get_questions(image)
        return len(self.combinations[self.combination_numbers[questions.start]]) if questions else None

    def __getitem__(self, image_id: str) -> tuple[Combination, ...]:
        if (image := self.find(image_id)) is None:
            raise KeyError(image_id)
        return self._read(image)

    def __iter__(self) -> Iterator[str]:
        return map(self.get_id, range(len(self)))

    def __len__(self) -> int:
        return len(self._ends)

    def _read(self, image: int) -> tuple[Combination, ...]:
        questions = self.get_questions(image)
        numbers = self.combination_numbers[questions.start : questions.stop]
        return tuple(map(self.combinations.__getitem__, numbers))


class Choice(Mapping[str, Positions]):
    """Maps the id of each chosen image to the positions of its chosen questions, ascending.

    Args:
        catalog (`QuestionCatalog`): all images and questions, sorted by image id.

    Attributes:
        questions (`bytearray`): for each question of the catalog 1 if it is chosen, otherwise 0.
    """

    def __init__(self, catalog: QuestionCatalog) -> None:
        self._catalog = catalog
        # One byte for each image: 1 if it is chosen, even without any of its questions.
        self._images = bytearray(len(catalog))
        self.questions = bytearray(len(catalog.combination_numbers))

    def take(self, image: int, questions: Iterable[int]) -> None:
        """Choose an image with some of its questions.

        Args:
            image (`int`): the number of the image.
            questions (`Iterable[int]`): the numbers of the chosen questions.
        """
        self._images[image] = 1
        for question in questions:
            self.questions[question] = 1

    def get_images(self) -> Iterator[int]:
        """Return the numbers of the chosen images, ascending."""
        return compress(range(len(self._images)), self._images)

    def get_taken(self, image: int) -> Iterator[int]:
        """Return the numbers of an image's chosen questions, ascending.

        Args:
            image (`int`): the number of the image.
        """
        questions = self._catalog.get_questions(image)
        return compress(questions, self.questions[questions.start : questions.stop])

    def __getitem__(self, image_id: str) -> Positions:
        image = self._catalog.find(image_id)
        if image is None or not self._images[image]:
            raise KeyError(image_id)
        start = self._catalog.get_questions(image).start
        return tuple(question - start for question in self.get_taken(image))

    def __iter__(self) -> Iterator[str]:
        return map(self._catalog.get_id, self.get_images())

    def __len__(self) -> int:
        return sum(self._images)


def make_catalog(images: Mapping[str, Sequence[Combination]]) -> QuestionCatalog:
    """Return a sorted catalog of the images and questions in a mapping.

    Args:
        images (`Mapping[str, Sequence[Combination]]`): image id -> the combination of each of its questions.
    """
    if isinstance(images, QuestionCatalog):
        return images.sort()
    catalog = QuestionCatalog()
    for image_id in sorted(images):
        catalog.append(image_id, images[image_id])
    return catalog


def _split_id(image_id: str) -> tuple[int, int]:
    """Return the upper and the lower 64 bits of a 128-bit image id."""
    return divmod(int(image_id, 16), 1 << 64)
