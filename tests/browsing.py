"""Pages as a real browser lays them out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Set by .ci/run: where it is, a test without a browser fails.
NEEDED = "NORMPIPE_TEST_BROWSER"


def rendered(page: Path, profile: Path) -> str:
    """Return the page's document as Chromium has it; skip, or fail in CI, where there is none.

    ``profile``: a folder for the browser's own files.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        missing = "no Chromium here: install it (Debian: apt-get install chromium)"
        if os.environ.get(NEEDED) == "required":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", f"--user-data-dir={profile}", "--window-size=1000,900",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
