"""Says what an error of a service means, in one table for all protocols: stop, retry, or give up one image.

A protocol's module turns a response into a `ServiceError`; `translate_error` looks it up. What no rule names is decided
by the status alone (`get_failure_kind`); the dispatcher ends a run in which the first few requests are all rejected.

Sources: Gemini's "Troubleshooting guide" and `google.rpc.QuotaFailure`; OpenAI's "Error codes"; the messages that vLLM,
llama.cpp, SGLang, OpenRouter and DeepSeek document or send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from compact_hf.errors import CompactError, StoppedEarly, TeacherError
from compact_hf.teachers.base import Failure, FailureKind, Reply
from compact_hf.teachers.http import one_line
from compact_hf.teachers.reader import is_complete_json


@dataclass(frozen=True, slots=True)
class Service:
    """A model of a service, as messages name it.

    Attributes:
        teacher (`str`): name of the teacher, `NAME:MODEL`.
        server (`str`): the service, such as `the Gemini API` or `http://localhost:8000`.
        key_variable (`str`): environment variable of the API key.
    """

    teacher: str
    server: str
    key_variable: str


@dataclass(frozen=True, slots=True)
class ServiceError:
    """An error as a service reports it, in a status or in the body of a response with status 200.

    Attributes:
        status (`int`): HTTP status; 200 if the body has an error without a status.
        message (`str`): the service's message, in one line without secrets.
        codes (`str`, *optional*): the machine-readable words of the error, separated by spaces: OpenAI's `code` and
            `type`, Google's status, reasons and names of quotas.
        retry_after (`float`, *optional*): delay in seconds that the service asks for; None if it named none.
        quota (`str`, *optional*): the quota that is used up, such as `250 requests`; otherwise empty.
        link (`str`, *optional*): URL of the page where a person can remove the cause; otherwise empty.
    """

    status: int
    message: str
    codes: str = ""
    retry_after: float | None = None
    quota: str = ""
    link: str = ""


class _Outcome(Enum):
    STOP = auto()  # no request can succeed
    WAIT = auto()  # no request can succeed before tomorrow
    CONTENT = auto()  # this image only, because of what it shows
    IMAGE = auto()  # this image only, unless the server's settings are wrong and all others fail too


@dataclass(frozen=True, slots=True)
class _Rule:
    """Applies to an error if the status is one of `statuses` (none: any) and the pattern is in its codes or message."""

    outcome: _Outcome
    statuses: tuple[int, ...]
    pattern: str
    says: str = ""  # {teacher}, {name}, {server}, {key_variable}, {quota}, {link}; the message follows in parentheses


_ANY: Final = ""
_IMAGE: Final = r"(the |this |an |input |provided |your )*image"
# The first rule that applies counts. Patterns ignore case.
_RULES: Final = (
    # OpenAI quotes the first and last characters of the key, so this message is never shown: see `_describe`.
    _Rule(
        _Outcome.STOP,
        (400, 401, 403),
        r"API_KEY_INVALID|API_KEY_EXPIRED|api key (not valid|expired)|invalid_api_key|\bUNAUTHENTICATED\b",
        "{teacher} at {server} needs a valid key ({status}): set {key_variable} and run the same command again",
    ),
    _Rule(
        _Outcome.STOP,
        (401,),
        _ANY,
        "{teacher} at {server} needs a valid key ({status}): set {key_variable} and run the same command again",
    ),
    _Rule(_Outcome.CONTENT, (400, 403, 422), r"content_filter|content_policy|requires moderation|\bflagged\b"),
    _Rule(
        _Outcome.IMAGE,
        (400, 415, 422, 500),
        rf"(unable to|cannot|can't|could not|failed to) (process|load|decode|open|read|identify|parse) {_IMAGE}"
        r"|invalid_image|image_parse_error|unsupported_image|cannot identify image file",
    ),
    _Rule(
        _Outcome.IMAGE,
        (400, 413, 422, 500),
        r"context_length_exceeded|exceed_context_size|(maximum|available) context (length|size)|maximum model length"
        r"|exceeds the maximum number of (input )?tokens",
    ),
    _Rule(
        _Outcome.STOP,
        (403,),
        r"SERVICE_DISABLED|has not been used in project",
        "{teacher}: the API is not enabled for the project of this key ({detail}): enable it{link}, wait some minutes "
        "and run the same command again",
    ),
    _Rule(
        _Outcome.STOP,
        (400, 403),
        r"location is not supported|unsupported_country",
        "{teacher}: {server} is not offered in the country of this machine ({detail}): use another teacher",
    ),
    _Rule(
        _Outcome.STOP,
        (400, 422),
        r"thinking.{0,40}not supported|not support.{0,20}thinking",
        "{teacher} does not support the thinking level of these requests ({detail}): name another model",
    ),
    _Rule(
        _Outcome.STOP,
        (400, 422, 501),
        r"(response_?format|json_?schema|response_?schema|structured outputs?|guided_json|json mode).{0,80}"
        r"(not|un|n't )\s?(supported|available|enabled|implemented|allowed|permitted)"
        r"|not support.{0,40}(response_?format|json_?schema|response_?schema|structured outputs?|json mode)",
        "{teacher} at {server} cannot reply in JSON of a schema ({detail}): name a model with structured outputs, or "
        "serve it with vLLM, SGLang or llama.cpp",
    ),
    _Rule(
        _Outcome.STOP,
        (400, 404, 422, 500),
        r"not a multimodal model|not support.{0,20}\bimages?\b|image input is not"
        r"|\bimages? (input )?(is|are) not support",
        "{teacher} at {server} does not read images ({detail}): name a model that does",
    ),
    _Rule(
        _Outcome.STOP,
        (402,),
        _ANY,
        "{teacher}: the account has no credit left ({detail}): add credit and run the same command again to resume",
    ),
    _Rule(
        _Outcome.STOP,
        (400, 403, 429),
        r"insufficient_quota|insufficient.(balance|credits|funds)|prepayment credits|billing_hard_limit"
        r"|billing_not_active",
        "{teacher}: the account has no credit left ({detail}): add credit and run the same command again to resume",
    ),
    _Rule(
        _Outcome.STOP,
        (429,),
        r"\blimit: 0\b",
        "{teacher}: the quota of this key for this model is 0 ({detail}): enable billing for its project, or name "
        "another model",
    ),
    _Rule(
        _Outcome.WAIT,
        (429,),
        r"PerDay|per[- ]day\b(?!.{0,80}try again in)",
        "{teacher}: the daily quota{quota} is used up; the same command resumes tomorrow ({detail})",
    ),
    _Rule(
        _Outcome.STOP,
        (403,),
        _ANY,
        "this key gives no access to {teacher} at {server} ({detail}): set another {key_variable} or name another "
        "model",
    ),
    _Rule(
        _Outcome.STOP,
        (404,),
        _ANY,
        "{teacher} was not found at {server} ({detail}): check the model's name in --teacher {name}:MODEL, and "
        "--teacher-url if it is given; the server lists its models at its path /models",
    ),
)


def translate_error(error: ServiceError, key: str, service: Service) -> Reply | Failure:
    """Return what an error means for its request and for the run.

    Args:
        error (`ServiceError`): the error.
        key (`str`): key of the request.
        service (`Service`): the service that sent it.

    Returns:
        A refusal if only this image is concerned; otherwise a failure, of the kind PERMANENT if no request can succeed.
    """
    rule = next((rule for rule in _RULES if _applies(rule, error)), None)
    if rule is None:
        advice = ": try a smaller --max-edge" if error.status == 413 else ""
        return Failure(
            key,
            f"{error.status} {error.message}{advice}",
            get_failure_kind(error.status),
            retry_after=error.retry_after,
        )
    if rule.outcome in (_Outcome.CONTENT, _Outcome.IMAGE):
        code = f"{error.codes.partition(' ')[0]}: " if error.codes else ""
        refused = f"refused by the teacher ({code}{error.message})"
        return Reply(key, text="", model=service.teacher, refused=refused, is_fault=rule.outcome is _Outcome.IMAGE)
    message = rule.says.format(
        teacher=service.teacher,
        name=service.teacher.partition(":")[0],
        server=service.server,
        key_variable=service.key_variable,
        status=error.status,
        detail=f"{error.status}: {error.message}",
        quota=error.quota and f" ({error.quota})",
        link=error.link and f" at {error.link}",
    )
    error_type: type[CompactError] = StoppedEarly if rule.outcome is _Outcome.WAIT else TeacherError
    return Failure(key, message, FailureKind.PERMANENT, error=error_type(message))


def _applies(rule: _Rule, error: ServiceError) -> bool:
    # An error in the body of a response with status 200 may apply to any rule that has a pattern.
    if error.status not in rule.statuses and not (error.status == 200 and rule.pattern):
        return False
    return re.search(rule.pattern, f"{error.codes} {error.message}", re.IGNORECASE) is not None


_OVERLOAD_CODES: Final = (429, 503, 529)
# Time-out, conflict, too early; 499 is nginx's and Google's code for a request that was cancelled on its way.
_TRANSIENT_CODES: Final = (200, 408, 409, 425, 499)


def get_failure_kind(status: int) -> FailureKind:
    """Return the kind of a failure by its HTTP status alone.

    Args:
        status (`int`): the status: 400 or above, or 200 if only the body reports an error.
    """
    if status in _OVERLOAD_CODES:
        return FailureKind.OVERLOADED
    if status >= 500 or status in _TRANSIENT_CODES:
        return FailureKind.TRANSIENT
    return FailureKind.REJECTED


# Finish reasons with which a service says that it withholds a reply because of its content.
_CONTENT_REASONS: Final = re.compile(
    r"content_filter|refusal|SAFETY|RECITATION|LANGUAGE|BLOCKLIST|PROHIBITED_CONTENT|SPII|MODEL_ARMOR|IMAGE_\w+",
    re.IGNORECASE,
)
_TOKEN_LIMIT_REASONS: Final = ("length", "max_tokens")
# Words of other servers for the end of an answer, in lower case.
_REGULAR_ENDS: Final = ("", "stop", "eos", "eos_token", "stop_sequence", "end_turn")


def judge_reply(reply: Reply, finish: str, *, is_free_text: bool = False) -> Reply | Failure:
    """Return a reply as it is, as a refusal, or as a failed attempt, depending on its finish reason and its text.

    Servers use many words for a regular end (`stop`, `eos`, `stop_sequence`), so complete JSON counts more than the
    word, unless this says that the content is withheld.

    Args:
        reply (`Reply`): what the service sent.
        finish (`str`): its finish reason, in one line; empty if it is the regular one or missing.
        is_free_text (`bool`, *optional*, defaults to `False`): whether free text was requested, which may be empty or
            cut.
    """
    if _CONTENT_REASONS.fullmatch(finish):
        return replace(reply, text="", refused=f"finish reason {finish}")
    is_cut = finish.lower() in _TOKEN_LIMIT_REASONS
    if is_free_text and (is_cut or finish.lower() in _REGULAR_ENDS):
        return reply if reply.text else replace(reply, refused="empty answer")
    if finish.lower() == "error":
        return Failure(reply.key, "the server reports an error instead of a reply (finish reason error)", billed=reply)
    if finish and not is_complete_json(reply.text):
        words = f"reply cut at the token limit (finish reason {finish})" if is_cut else f"finish reason {finish}"
        return replace(reply, text="", refused=words, is_fault=True)
    if not reply.text:
        # Often different at the next attempt, so that only the last one becomes the reply.
        empty = replace(reply, refused="empty answer", is_fault=True)
        return Failure(reply.key, "the reply is empty", billed=empty, is_last_resort=True)
    return reply


def make_lost_reply(key: str) -> Reply:
    """Return a reply for `Failure.billed` that was made, and probably billed, but did not arrive in a readable form.

    Args:
        key (`str`): key of the request.
    """
    return Reply(key, text="", model="", refused="unreadable", has_usage=False)


def is_html(text: str) -> bool:
    """Return whether a text is an HTML page.

    Args:
        text (`str`): the body of a response.
    """
    return re.match(r"\s*(<!doctype html|<html|<head|<body)", text, re.IGNORECASE) is not None


def describe_body(text: str, secret: str) -> str:
    """Return the text of an error from a server in one line, without secrets; of an HTML page only its title.

    Args:
        text (`str`): a message of the server, or the body of a response.
        secret (`str`): the API key, which is removed.
    """
    if is_html(text):
        title = re.search(r"<title[^>]*>(.*?)</title", text[:10_000], re.IGNORECASE | re.DOTALL)
        named = f" titled {one_line(title[1])!r}" if title else ""
        return f"an HTML page{named}, such as a proxy or the login page of a network sends"
    return one_line(text.replace(secret, "<key>"))
