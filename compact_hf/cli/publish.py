"""Defines the arguments and output of `compact publish`.

The contents of the directory decide how it is published, and in which kind of repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.cli.console import configure_hub_progress_bars, log, print_data, print_table
from compact_hf.cli.dataset import print_difference
from compact_hf.cli.parser import set_command
from compact_hf.errors import UsageError
from compact_hf.wording import format_count

if TYPE_CHECKING:
    from compact_hf.dataset.diff import Difference
    from compact_hf.hub.push import PushResult

# Options that apply to one kind of repository only, by their names in the parsed arguments.
_MODEL_OPTIONS: Final = ("version", "base", "results", "license")
_SPACE_OPTIONS: Final = ("wheel",)


def add_publish(publish: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact publish` to its parser."""
    set_command(
        publish,
        _publish,
        "compact publish release org/compact; compact publish student org/student --base org/llava-base",
    )
    publish.add_argument(
        "directory", type=Path, metavar="DIR", help="directory to publish; its contents decide the kind of repository"
    )
    publish.add_argument("repository", metavar="ORG/NAME", help="Hub repository; created if it does not exist")
    publish.add_argument(
        "--private", action="store_true", help="create the repository private; refuse an existing public one"
    )
    publish.add_argument(
        "--no-pr",
        action="store_false",
        dest="pull_request",
        help="upload to a branch and commit to main, for a Hub or a repository without pull requests",
    )
    publish.add_argument("--dry-run", action="store_true", help="check, and list files and changes, without publishing")
    model = publish.add_argument_group(
        "options of models and adapters (a dataset release has its version and license in its card)"
    )
    model.add_argument("--version", metavar="X.Y.Z", help="version, set as a tag (default: no tag)")
    model.add_argument(
        "--base",
        metavar="ORG/NAME[@REVISION]",
        help="Hub repository of an adapter's base model, if the adapter names a local directory",
    )
    model.add_argument(
        "--results", type=Path, metavar="DIR", help="output directory of compact evaluate, for the scores in the card"
    )
    model.add_argument("--license", metavar="ID", help="license, as an identifier of the Hub (default: the base's)")
    space = publish.add_argument_group("options of Spaces")
    space.add_argument(
        "--wheel", type=Path, metavar="FILE", help="wheel of compact_hf to upload, if it is not on the package index"
    )


def _publish(args: argparse.Namespace) -> int:
    from compact_hf.hub.space import is_space_directory
    from compact_hf.models.loading import has_model

    configure_hub_progress_bars()
    # The kind is decided by the files: the config of a model or adapter, or the header of a Space; else a release.
    is_model = has_model(args.directory)
    is_space = not is_model and is_space_directory(args.directory)
    # An option that would be ignored is an error: the user expects an effect.
    for kind, is_kind, names in (("model or adapter", is_model, _MODEL_OPTIONS), ("Space", is_space, _SPACE_OPTIONS)):
        options = [f"--{name}" for name in names if getattr(args, name) is not None]
        if options and not is_kind:
            raise UsageError(f"{args.directory} is not a {kind}: {', '.join(options)} cannot be used with it")
    return (_publish_model if is_model else _publish_space if is_space else _publish_release)(args)


def _publish_release(args: argparse.Namespace) -> int:
    from compact_hf.dataset.publish import publish

    result = publish(
        args.directory,
        args.repository,
        private=args.private,
        pull_request=args.pull_request,
        dry_run=args.dry_run,
        on_progress=log,
    )
    # What to do next, shown only if something was published.
    code = f"load_dataset({args.repository!r}, revision={result.tag!r})"
    return _print_result(result.files, result.pushed, result.tag, code=code, difference=result.difference)


def _publish_model(args: argparse.Namespace) -> int:
    from compact_hf.training.publish import publish_model

    result = publish_model(
        args.directory,
        args.repository,
        version=args.version,
        base=args.base,
        results=args.results,
        license=args.license,
        private=args.private,
        pull_request=args.pull_request,
        dry_run=args.dry_run,
        on_progress=log,
    )
    # The commit of the base model that the card names.
    if result.base_revision:
        log(f"base model: {result.base} at {result.base_revision}")
    code = f'pipeline("image-text-to-text", model="{args.repository}", trust_remote_code=False)'
    return _print_result(result.files, result.pushed, result.tag or "main", code=code)


def _publish_space(args: argparse.Namespace) -> int:
    from compact_hf.hub.space import publish_space

    result = publish_space(
        args.directory,
        args.repository,
        wheel=args.wheel,
        private=args.private,
        pull_request=args.pull_request,
        dry_run=args.dry_run,
        on_progress=log,
    )
    if result.index_package:
        log(
            f"the Space installs {result.index_package} from the package index; if it was not published there, "
            "give --wheel FILE"
        )
    return _print_result(result.files, result.push_result, "the Space")


def _print_result(
    files: dict[str, int],
    push_result: PushResult | None,
    name: str,
    *,
    code: str = "",
    difference: Difference | None = None,
) -> int:
    """Print the URL and the code that loads what was published; after a dry run, the files that would be uploaded."""
    from compact_hf.hub.ref import other_endpoint

    # A dry run: nothing was uploaded. `files` is path -> bytes.
    if push_result is None:
        print_table(("file", "bytes"), list(files.items()))
        if difference:
            print_difference(difference)
        log(f"{name} would have {format_count(len(files), 'file')}, {sum(files.values()):,} bytes")
        return 0
    if code:
        endpoint = other_endpoint()
        log(f"next: in Python{f', with HF_ENDPOINT={endpoint}' if endpoint else ''}: {code}")
    print_data(push_result.url)
    return 0
