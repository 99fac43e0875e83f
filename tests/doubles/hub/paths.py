"""How the Hub's addresses name a repository and a revision, for the routes."""

from __future__ import annotations

from typing import Final

from starlette.convertors import StringConvertor, register_url_convertor


class _Revision(StringConvertor):
    """A branch, a tag or a hash, or a reference with slashes: refs/pr/1."""

    regex = r"refs/[a-z]+/[^/]+|[^/]+"


class _Kind(StringConvertor):
    regex = "models|datasets|spaces"


register_url_convertor("revision", _Revision())
register_url_convertor("kind", _Kind())

API: Final = "/api/{kind:kind}/{namespace}/{name}"
"""What is asked about a repository starts so."""
PAGES: Final = ("/{kind:kind}/{namespace}/{name}", "/{namespace}/{name}")
"""What belongs to its page (files, LFS) starts so: models have no prefix."""
