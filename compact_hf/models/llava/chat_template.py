"""The chat template as text: nothing in, `chat_template.jinja` beside this file out.

With it, TRL reads and learns what LLaVA's own preprocessing (`preprocess_v1` in llava/train/train.py) reads and learns:
the same tokens, the same of them supervised, for a Llama tokenizer with `legacy` set (`lmsys/vicuna-7b-v1.5` says
false) or not, built as `tokenizer.llama_tokenizer` builds it. It differs where LLaVA masks a whole row: if a message
holds " ASSISTANT: ", or the last answer is empty, LLaVA learns nothing from the row, and this learns the answers.
For a byte-level tokenizer, which LLaVA-1.5 has not, the two spaces that stand for SentencePiece's are real ones.
"""

from __future__ import annotations

from importlib.resources import files


def chat_template() -> str:
    """Return LLaVA-1.5's conversation as a Jinja template with generation marks around what is to be learnt.

    To train, it raises `jinja2.TemplateError` for a text that holds one of the tokenizer's own tokens, such as
    `</s>` or `<image>`, and for roles that do not take turns; the message is one line that says so.
    """
    return (files("compact_hf.models.llava") / "chat_template.jinja").read_text(encoding="utf-8")
