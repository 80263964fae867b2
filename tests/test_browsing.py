"""Tests of pages: skipped without a browser, failing in CI, which installs one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from . import browsing

ROOT = Path(__file__).resolve().parent.parent
#: What .ci/run really runs; all else that it may call is a stub, or missing.
TOOLS = ("bash", "chmod", "dirname", "env", "timeout", "true")


def test_without_a_browser_a_test_is_skipped_and_in_ci_it_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(browsing.NEEDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium here: install it"):
        browsing.rendered(tmp_path / "index.html", tmp_path)
    monkeypatch.setenv(browsing.NEEDED, "required")
    with pytest.raises(pytest.fail.Exception, match="no Chromium here: install it"):
        browsing.rendered(tmp_path / "index.html", tmp_path)


def stub(folder, name, body):
    path = folder / name
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A PATH of stubs: root, no browser, and a make that notes what it is told."""
    for name in TOOLS:
        (tmp_path / name).symlink_to(shutil.which(name))
    stub(tmp_path, "make", f'echo "make $* $NORMPIPE_TEST_BROWSER" >> {tmp_path}/made')
    stub(tmp_path, "id", "echo 0")
    return tmp_path


def ci(machine):
    done = subprocess.run(
        [ROOT / ".ci/run"], env={"PATH": str(machine)}, capture_output=True, text=True
    )
    made = machine / "made"
    return done, made.read_text().splitlines() if made.is_file() else []


BOTH = ["make lint required", "make test required"]


def installs(machine):
    """An apt-get that brings a browser."""
    browser = machine / "chromium"
    made = f'printf "#!/bin/true\\n" > {browser} && chmod +x {browser}'
    body = f'echo "$*" >> {machine}/asked\n[[ "$*" != *install* ]] || {{ {made}; }}'
    stub(machine, "apt-get", body)


def test_ci_installs_a_browser_where_there_is_none(machine):
    installs(machine)
    done, made = ci(machine)
    assert done.returncode == 0 and made == BOTH and not done.stderr
    asked = (machine / "asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["update", "chromium"]
    again, made = ci(machine)
    assert again.returncode == 0 and made == BOTH * 2
    assert len((machine / "asked").read_text().splitlines()) == 2  # it is there now


def test_ci_uses_sudo_if_it_may(machine):
    installs(machine)
    stub(machine, "id", "echo 1000")
    done, made = ci(machine)  # no sudo
    assert done.returncode == 1 and not made
    assert "needs root or sudo" in done.stderr and len(done.stderr.splitlines()) == 1
    stub(machine, "sudo", 'shift; exec "$@"')
    done, made = ci(machine)
    assert done.returncode == 0 and made == BOTH


def test_ci_says_at_once_that_nothing_can_install_a_browser(machine):
    done, made = ci(machine)
    assert done.returncode == 1 and not made
    assert "without apt-get it cannot be installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ci_without_a_mirror_says_so_and_runs_the_rest(machine):
    """The tests of pages then fail; the verdict on all others is not lost."""
    stub(machine, "apt-get", "exit 100")
    done, made = ci(machine)
    assert made == BOTH and "apt-get could not install Chromium" in done.stderr


def test_one_helper_opens_browsers():
    users = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if "--dump-dom" in path.read_text(encoding="utf-8")
    ]
    assert sorted(users) == ["browsing.py", "test_browsing.py"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
