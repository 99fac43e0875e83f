"""Annotate, as the registry finds it."""

from compact_hf.methods.assembly import RowMaker


class Annotate(RowMaker):
    """What the questions of a dataset need."""

    name = "annotate"
    makes_rows = False
