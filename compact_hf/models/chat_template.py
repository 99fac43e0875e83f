"""Checks chat templates, which are programs of a model's author, before they are rendered in this process.

transformers renders a template in a sandbox that limits what it can reach, but neither its time nor its memory. A
template is therefore rendered once in a process with limits (chat_template_probe.py). Those of model families that are
installed are trusted.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

from compact_hf.models.registry import iter_families

_PROBE: Final = Path(__file__).with_name("chat_template_probe.py")
_TIMEOUT_S: Final = 60.0
"""Limit on the process as a whole; its limit on processor time is lower."""


def check_chat_templates(processor: Any) -> None:
    """Check that the chat templates of a processor can be rendered with little time and memory.

    Args:
        processor (`ProcessorMixin`): a processor with or without a template.

    Raises:
        ValueError: a template ran into the limits.
    """
    templates = getattr(processor, "chat_template", None) or ""
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if template:
            _check(str(template))


@cache
def _check(template: str) -> None:
    if any(template == family.chat_template() for family in iter_families()):
        return
    try:
        # -I: no environment variable and no file in the working directory changes what is imported.
        process = subprocess.run(
            [sys.executable, "-I", str(_PROBE)],
            input=template.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        has_failed = process.returncode != 0
    except subprocess.TimeoutExpired:
        has_failed = True
    if has_failed:
        raise ValueError(
            "its chat template does not end within seconds, or needs gigabytes, for a question of one line; replace it "
            "by a template that you trust"
        )


def check_image_question(processor: Any) -> None:
    """Check that the chat template of a processor accepts a question with an image.

    Args:
        processor (`ProcessorMixin`): a processor from `load_processor`, with a template.

    Raises:
        ValueError: the template has an error, or refuses the question.
    """
    from jinja2 import TemplateError

    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    try:
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, TypeError, RecursionError) as error:
        raise ValueError(f"its chat template does not accept a question with an image ({error})") from error
