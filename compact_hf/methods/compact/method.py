"""The method of the paper, as the registry finds it."""

from compact_hf.methods.compact.rows import ConversationRows


class Compact(ConversationRows):
    """Questions that need k capabilities at once."""

    name = "compact"
