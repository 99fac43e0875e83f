"""`compact publish`: parsing and talking. What a folder holds decides how it is published and in which repository."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.cli.console import bars_on_a_terminal, say, tell, tell_table
from compact_hf.cli.dataset import tell_difference
from compact_hf.cli.parser import command
from compact_hf.errors import UsageError

if TYPE_CHECKING:
    from compact_hf.dataset.diff import Difference
    from compact_hf.hub.push import Pushed

_OF_MODELS: Final = ("version", "base", "results", "license")
_OF_SPACES: Final = ("wheel",)


def add(commands: Any) -> None:
    """Add this command to the parser."""
    publish = command(
        commands,
        "publish",
        _publish,
        "put a release, a tuned model, an adapter, a metric or a Space on the Hub, in one piece",
        "compact publish release org/compact; compact publish student org/student --base org/llava-base",
    )
    publish.add_argument("folder", type=Path, metavar="DIR", help="which of these it holds decides where it goes")
    publish.add_argument("repository", metavar="ORG/NAME", help="created where it is not there")
    publish.add_argument("--private", action="store_true", help="create it private; refuse a public one")
    publish.add_argument("--dry-run", action="store_true", help="only check, list the files, and say what changed")
    model = publish.add_argument_group("of models and adapters (a release has its version and licence in its card)")
    model.add_argument("--version", metavar="X.Y.Z", help="tag it so (default: no tag)")
    model.add_argument(
        "--base", metavar="ORG/NAME[@REVISION]", help="where others find the base of an adapter that has it in a folder"
    )
    model.add_argument("--results", type=Path, metavar="DIR", help="what compact evaluate measured, for the card")
    model.add_argument("--license", metavar="ID", help="as the Hub spells it (default: the base's)")
    space = publish.add_argument_group("of Spaces")
    space.add_argument("--wheel", type=Path, metavar="FILE", help="this package, where the index does not have it")


def _publish(chosen: argparse.Namespace) -> int:
    from compact_hf.hub.space import holds_space
    from compact_hf.models.loading import holds_model

    bars_on_a_terminal()
    is_model = holds_model(chosen.folder)
    is_space = not is_model and holds_space(chosen.folder)
    for kind, does_hold, names in (("model or adapter", is_model, _OF_MODELS), ("Space", is_space, _OF_SPACES)):
        given = [f"--{name}" for name in names if getattr(chosen, name) is not None]
        if given and not does_hold:
            raise UsageError(f"{chosen.folder} holds no {kind}, and only those take {', '.join(given)}")
    return (_publish_model if is_model else _publish_space if is_space else _publish_release)(chosen)


def _publish_release(chosen: argparse.Namespace) -> int:
    from compact_hf.dataset.publish import publish

    published = publish(
        chosen.folder, chosen.repository, private=chosen.private, dry_run=chosen.dry_run, on_progress=say
    )
    code = f"load_dataset({chosen.repository!r}, revision={published.tag!r})"
    return _tell(published.files, published.pushed, published.tag, code=code, difference=published.difference)


def _publish_model(chosen: argparse.Namespace) -> int:
    from compact_hf.training.publish import publish_model

    published = publish_model(
        chosen.folder,
        chosen.repository,
        version=chosen.version,
        base=chosen.base,
        results=chosen.results,
        license=chosen.license,
        private=chosen.private,
        dry_run=chosen.dry_run,
        on_progress=say,
    )
    if published.base_revision:
        say(f"its base is {published.base} at {published.base_revision}")
    code = f'pipeline("image-text-to-text", model="{chosen.repository}")'
    return _tell(published.files, published.pushed, published.tag or "main", code=code)


def _publish_space(chosen: argparse.Namespace) -> int:
    from compact_hf.hub.space import publish_space

    published = publish_space(
        chosen.folder,
        chosen.repository,
        wheel=chosen.wheel,
        private=chosen.private,
        dry_run=chosen.dry_run,
        on_progress=say,
    )
    if published.from_index:
        say(f"it takes {published.from_index} from the package index; where that does not have it, give --wheel FILE")
    return _tell(published.files, published.pushed, "the Space")


def _tell(
    files: dict[str, int], pushed: Pushed | None, name: str, *, code: str = "", difference: Difference | None = None
) -> int:
    """Tell where it is now and which code goes on from there; after a dry run, what would be there."""
    if pushed is None:
        tell_table(("file", "bytes"), list(files.items()))
        if difference:
            tell_difference(difference)
        say(f"{name} would be {len(files)} files, {sum(files.values()):,} bytes")
        return 0
    if code:
        say(f"next: in Python: {code}")
    tell(pushed.url)
    return 0
