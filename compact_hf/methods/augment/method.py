"""Augment, as the registry finds it."""

from compact_hf.methods.compact.rows import ConversationRows


class Augment(ConversationRows):
    """Questions of a dataset, rewritten to need one capability more."""

    name = "augment"
