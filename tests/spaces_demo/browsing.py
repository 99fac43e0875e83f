"""Helpers that drive a visitor's browser (Debian's chromium) with playwright, and run axe-core in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

BROWSERS: Final = ("chromium", "google-chrome")
AXE: Final = "4.14.1"
SIZES: Final = {"desktop": (1280, 900), "phone": (390, 844), "watch": (220, 400)}


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser, or skip the test if none is installed."""
    installed = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if installed is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[dev]'")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox needs permissions that containers do not have.
        browser = driver.chromium.launch(executable_path=installed, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def read_axe_script() -> str:
    """Return the script of axe-core, downloaded once from npm's registry; skip the test if that is not possible."""
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compact_hf-tests"
    archive = directory / f"axe-core-{AXE}.tgz"
    if not archive.exists():
        if shutil.which("npm") is None:
            pytest.skip("no axe-core: npm is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        process = subprocess.run(
            ["npm", "pack", "--silent", f"axe-core@{AXE}"], cwd=directory, capture_output=True, text=True, timeout=120
        )
        if process.returncode != 0 or not archive.exists():
            pytest.skip(f"no axe-core {AXE}: npm cannot download it ({process.stderr.strip()[:200]})")
    with tarfile.open(archive) as tar:
        script = tar.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def open_page(browser: Any, url: str, *, size: str, scheme: str) -> Any:
    """Open the Space in a window of this size and color scheme, and wait until it can be used."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=size == "phone",
        service_workers="block",
    )
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.hosts = set()
    page.on("request", lambda request: page.hosts.add(request.url.partition("//")[2].partition("/")[0]))
    page.goto(url)
    page.get_by_role("tab", name="Ask").wait_for()
    # The page decides again which tabs fit into one line when its fonts are loaded.
    page.evaluate("document.fonts.ready.then(() => new Promise(requestAnimationFrame)).then(() => true)")
    return page


def choose_tab(page: Any, name: str) -> None:
    """Select a tab as a visitor does; tabs that do not fit into the line are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    menu = page.get_by_role("button", name="More tabs")
    tab.or_(menu).first.wait_for()
    if tab.is_visible():
        tab.click()
    else:
        menu.click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    get_panel(page, name).wait_for()


def get_panel(page: Any, name: str) -> Any:
    """Return the panel of a tab; app.py sets its `id`."""
    return page.locator(f"[id='{name.lower()}']")
