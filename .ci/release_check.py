"""Check that this checkout can be released, and build what is uploaded into dist/.

    make release-check

It prints one line for each point, and exits with 1 if any of them fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Final

DIST: Final = Path("dist")
MAX_SIZE: Final = 12_000_000


class CheckFailed(Exception):
    """What is wrong, and what to do."""


def check_citation(version: str) -> str:
    """Return what is right if CITATION.cff has this version."""
    cited = re.search(r"^version: *(\S+)$", Path("CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if cited is None or cited[1] != version:
        raise CheckFailed(
            f"CITATION.cff has version {cited[1] if cited else 'none'} (pyproject.toml: {version}): "
            f"write `version: {version}`"
        )
    return f"CITATION.cff has {version}"


def check_changelog(version: str) -> str:
    """Return what is right if the newest heading of CHANGELOG.md has this version and a date."""
    newest = re.search(r"^## (.+)$", Path("CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    heading = newest[1] if newest else "none"
    found = re.fullmatch(r"\[(.+)\] - (\d{4}-\d{2}-\d{2})", heading)
    if found is None or found[1] != version or not _is_date(found[2]):
        raise CheckFailed(
            f"the newest heading of CHANGELOG.md is {heading!r} (a release needs its version and date): "
            f"write `## [{version}] - {date.today()}`"
        )
    return f"CHANGELOG.md describes {version} of {found[2]}"


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def check_tree(_: str) -> str:
    """Return what is right if git has no change that is not committed."""
    changes = _git("status", "--porcelain").splitlines()
    if changes:
        names = ", ".join(line[3:] for line in changes[:3])
        raise CheckFailed(f"{len(changes)} files differ from the commit ({names}): commit or remove them")
    return "all files are committed"


def check_tag(version: str) -> str:
    """Return what is right if this version is released from this commit or not at all, and nothing else from it."""
    tag = f"v{version}"
    tags_here = [name for name in _git("tag", "--points-at", "HEAD").splitlines() if name.startswith("v")]
    if tag in tags_here:
        return f"{tag} is on this commit"
    if tags_here:
        raise CheckFailed(
            f"this commit has the tag {tags_here[0]} (pyproject.toml: {version}): raise the version, or delete the tag"
        )
    if _git("tag", "--list", tag):
        raise CheckFailed(f"the tag {tag} is on another commit (a release never changes): raise the version")
    return f"{tag} is free"


def check_build(version: str) -> str:
    """Build sdist and wheel again; return their names if they have this version, in the package too."""
    shutil.rmtree(DIST, ignore_errors=True)
    build = _run(sys.executable, "-m", "hatchling", "build", "-d", str(DIST))
    if build.returncode != 0:
        raise CheckFailed(f"hatchling cannot build ({_last_line(build)}): run `python -m hatchling build`")
    names = sorted(path.name for path in DIST.iterdir())
    wheel = f"compact_hf-{version}-py3-none-any.whl"
    if names != [wheel, f"compact_hf-{version}.tar.gz"]:
        raise CheckFailed(f"the build left {', '.join(names)} (version {version}): write the version as PEP 440 does")
    code = f"import sys; sys.path.insert(0, {str(DIST / wheel)!r}); import compact_hf; print(compact_hf.__version__)"
    package = _run(sys.executable, "-I", "-c", code)
    if package.stdout.strip() != version:
        raise CheckFailed(f"compact_hf.__version__ of the wheel is {_last_line(package)}: it has to be {version}")
    return " and ".join(names)


def check_size(_: str) -> str:
    """Return the sizes of the files in dist/ if they are small."""
    sizes = {path.name: path.stat().st_size for path in _list_dist()}
    for name, size in sizes.items():
        if size >= MAX_SIZE:
            raise CheckFailed(
                f"{name} has {size / 1e6:.1f} MB (allowed: less than {MAX_SIZE / 1e6:.0f}): "
                "leave large files out of the build in pyproject.toml"
            )
    return ", ".join(f"{size / 1e6:.1f} MB" for size in sizes.values())


def check_metadata(_: str) -> str:
    """Return what is right if twine finds nothing wrong in the metadata that PyPI reads."""
    twine = _run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, _list_dist()))
    if twine.returncode != 0:
        reason = " ".join((twine.stdout + twine.stderr).split())
        raise CheckFailed(f"twine check --strict fails ({reason}): fix pyproject.toml")
    return "twine check --strict passes"


POINTS: Final[dict[str, Callable[[str], str]]] = {
    "citation": check_citation,
    "changelog": check_changelog,
    "tree": check_tree,
    "tag": check_tag,
    "build": check_build,
    "size": check_size,
    "metadata": check_metadata,
}


def main() -> int:
    """Check every point, and return the exit status."""
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    status = 0
    for name, check in POINTS.items():
        try:
            print(f"ok    {name}: {check(version)}")
        except CheckFailed as error:
            print(f"wrong {name}: {error}")
            status = 1
    return status


def _list_dist() -> list[Path]:
    files = sorted(DIST.glob("*"))
    if not files:
        raise CheckFailed("nothing was built: fix the point `build` first")
    return files


def _git(*args: str) -> str:
    process = _run("git", *args)
    if process.returncode != 0:
        raise CheckFailed(f"git cannot read this directory ({_last_line(process)}): run this in a checkout")
    return process.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(process: subprocess.CompletedProcess[str]) -> str:
    lines = (process.stdout + process.stderr).strip().splitlines()
    return lines[-1] if lines else "no output"


if __name__ == "__main__":
    sys.exit(main())
