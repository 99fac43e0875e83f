"""Ends a run whose teacher answers, but never with anything that can be used."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pydantic import BaseModel, ValidationError

from compact_hf.errors import UnusableRepliesError
from compact_hf.teachers.base import Failure, Reply, Request, Role
from compact_hf.teachers.reader import parse_json_reply

# Enough that no ordinary teacher fails so often from its first reply on, and few enough to cost little.
_MAX_UNUSABLE: Final = 20
# Rejected requests without any reply; more than one, because the first image may be an unusual one.
_MAX_REJECTED: Final = 3
_QUOTE_CHARS: Final = 200


class Breaker:
    """Watches the replies of one session, and says when the run should stop.

    A reply is unusable if it is not the requested JSON, or a refusal that may be a fault of the server
    (`Reply.is_fault`). As long as a role has no usable reply, its unusable ones are provisional: if the run stops
    because of them, or ends without having kept anything, they are forgotten and their images are not finished.

    Args:
        teachers (`dict[Role, str]`): the name of each role's teacher, for messages.
    """

    def __init__(self, teachers: dict[Role, str]) -> None:
        self._teachers = teachers
        self._usable_roles: set[Role] = set()
        # role -> key of a request -> id of its image
        self._unusable: dict[Role, dict[str, str]] = {}
        self._quotes: dict[Role, str] = {}
        self._rejections: Counter[str] = Counter()

    def record_reply(self, request: Request, reply: Reply) -> UnusableRepliesError | None:
        """Count a reply, and return the error to stop with if the role's replies are never usable.

        Args:
            request (`Request`): the request.
            reply (`Reply`): its reply.
        """
        # Without an image a refusal is expected; it says nothing about the teacher.
        if request.role in self._usable_roles or request.encoded_image is None:
            return None
        if (problem := _find_problem(request, reply)) is None:
            if not reply.refused:
                self._usable_roles.add(request.role)
                self._unusable.pop(request.role, None)
            return None
        unusable = self._unusable.setdefault(request.role, {})
        unusable[request.key] = request.image_id
        self._quotes[request.role] = problem
        if len(unusable) < _MAX_UNUSABLE:
            return None
        return self.make_error()

    def record_rejection(self, failure: Failure) -> bool:
        """Count a rejected request, and return whether several were rejected with the same message.

        Args:
            failure (`Failure`): the failure of the request.
        """
        # Digits are ids of requests, sizes or times.
        message = "".join(char for char in failure.message if not char.isdigit())
        self._rejections[message] += 1
        return self._rejections[message] >= _MAX_REJECTED

    def provisional_keys(self) -> set[str]:
        """Return the keys of the requests with unusable replies of roles without a usable one."""
        return {key for replies in self._unusable.values() for key in replies}

    def provisional_images(self) -> set[str]:
        """Return the ids of the images of these requests."""
        return {image_id for replies in self._unusable.values() for image_id in replies.values()}

    def make_error(self) -> UnusableRepliesError | None:
        """Return the error of a run that stops because of its unusable replies; None if there are none."""
        if not self._unusable:
            return None
        role = min(self._unusable)
        count = len(self._unusable[role])
        replies = f"none of the {count} replies" if count > 1 else "the only reply"
        return UnusableRepliesError(
            f"{replies} of {self._teachers[role]} can be used ({self._quotes[role]}): check that the server "
            "enforces JSON schemas, its chat template, and the limits on tokens; the images count as not finished, so "
            "the same command asks again"
        )


def _find_problem(request: Request, reply: Reply) -> str | None:
    """Return why a reply cannot be used, with a quotation; None if it can, or if it is a refusal of the image."""
    if reply.refused:
        return reply.refused if reply.is_fault else None
    # A request for free text has the empty schema, which any text satisfies.
    if request.schema is BaseModel:
        return None
    try:
        parse_json_reply(request.schema, reply.text)
    except ValidationError:
        quote = " ".join(reply.text.split())
        return f"the last one: {quote[:_QUOTE_CHARS]!r}{'...' if len(quote) > _QUOTE_CHARS else ''}"
    return None
