"""The chat template as text: nothing in, `chat_template.jinja` beside this file out."""

from __future__ import annotations

from importlib.resources import files


def chat_template() -> str:
    """Return LLaVA-1.5's conversation as a Jinja template with generation marks around what is to be learnt."""
    return (files("compact_hf.tuning") / "chat_template.jinja").read_text(encoding="utf-8")
