"""Renders the chat template on stdin for a few short conversations, within limits on time, memory and text.

    python -I compact_hf/models/chat_template_probe.py < chat_template.jinja

The exit status is 0 unless a limit is reached: other errors of a template are found when it is used. The environment is
that of transformers (utils/chat_template_utils.py), whose import would take longer than the limit.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S: Final = 2
MEMORY_BYTES: Final = 2**30
MAX_CHARS: Final = 1_000_000
_LIMIT_REACHED: Final = 3  # exit status


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which marks answers for training; its content is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012  # as in the base class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def render(template: jinja2.Template, content: Any, turns: int) -> None:
    messages = [{"role": ("user", "assistant")[turn % 2], "content": content} for turn in range(turns)]
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "tools": None, "documents": None}
    chars = 0
    for text in template.generate(messages=messages, add_generation_prompt=turns % 2 == 1, **tokens):
        chars += len(text)
        if chars > MAX_CHARS:
            sys.exit(_LIMIT_REACHED)


def main() -> None:
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    # The imports above have taken some of the processor time that is counted.
    cpu_s = math.ceil(time.process_time()) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = json.dumps
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda _: "2026-01-01"}
    typed = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    try:
        template = environment.from_string(source)
        for content in (typed, typed[1:], "What is it?"):
            for turns in (1, 2, 5):
                try:
                    render(template, content, turns)
                except (MemoryError, RecursionError):
                    raise
                except Exception:  # noqa: BLE001, S112  # what a template refuses is of no interest here
                    continue
    except (MemoryError, RecursionError):
        sys.exit(_LIMIT_REACHED)
    except jinja2.TemplateError:
        return


if __name__ == "__main__":
    main()
