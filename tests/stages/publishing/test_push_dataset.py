"""push hands exactly the files of an export to the Hub, privately, and only if they are whole."""

import builtins
import sys

import pytest

from normpipe.pipeline.errors import InputError, NormpipeError
from normpipe.stages.publishing.push_dataset import open_hub, plan_push, send

from .exports import export, make_job, tree
from .hub_server import serving

TOKEN = "hf_ofTheTests"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("push")
    export(make_job(place / "job"), place / "out", "folder")
    return place / "out"


@pytest.fixture
def hub(monkeypatch):
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def push(folder, **more):
    values = {"repo": "lab/faces", "public": False, "revision": "main", **more}
    plan = plan_push(folder, **values)
    return send(open_hub(plan), plan)


def test_a_push_sends_every_file_and_no_other(folder, hub):
    assert push(folder) == f"{hub.address}/datasets/lab/faces"
    assert hub.files == tree(folder)
    assert ".normpipe.lock" not in hub.files and hub.repos == {"lab/faces": True}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    push(folder)  # again: the same
    assert hub.repos == {"lab/faces": True}


def test_it_says_what_goes_where(folder, hub):
    plan = plan_push(folder, "lab/faces", True, "v2")
    lines = plan.lines()
    assert f"{plan.files} files" in lines[0] and plan.files == len(tree(folder))
    assert plan.bytes == sum(len(data) for data in tree(folder).values())
    assert (
        lines[1]
        == f"to {hub.address}/datasets/lab/faces, branch v2, PUBLIC: everybody can download it"
    )
    assert lines[2] == "licence: CC-BY-4.0" and not hub.asked
    assert push(folder, public=True, revision="v2")
    assert hub.branches == {"v2"} and hub.repos == {"lab/faces": False}


def test_a_repository_that_others_see_is_not_filled_by_surprise(folder, hub):
    hub.repos["lab/faces"] = False
    with pytest.raises(InputError, match="public: add --public"):
        push(folder)
    hub.repos["lab/faces"] = True
    with pytest.raises(InputError, match="private: leave --public out"):
        push(folder, public=True)
    assert not hub.files and not hub.commits


def test_what_is_no_whole_export_is_refused(folder, hub, tmp_path):
    with pytest.raises(InputError, match="is no finished export"):
        push(tmp_path)
    card = folder / "README.md"
    text = card.read_bytes()
    card.write_bytes(text + b" ")
    with pytest.raises(InputError, match=r"README.md \(changed\)"):
        push(folder)
    card.unlink()
    with pytest.raises(InputError, match=r"README.md \(missing\)"):
        push(folder)
    card.write_bytes(text)
    (folder / "keys.csv").write_text("anna")
    with pytest.raises(InputError, match=r"keys.csv \(not of the export\)"):
        push(folder)
    (folder / "keys.csv").unlink()
    with pytest.raises(InputError, match="names no repository"):
        push(folder, repo="faces")
    assert not hub.asked


def test_errors_of_the_hub_are_one_line(folder, hub):
    hub.broken = True
    with pytest.raises(NormpipeError, match=r"did not take lab/faces: .*403.*same command again"):
        push(folder)


def test_no_hub_at_all(folder, monkeypatch):
    with serving() as gone:
        address = gone.address
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(NormpipeError, match="did not take lab/faces"):
        push(folder)


def test_without_a_token_or_the_package(folder, hub, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="run 'hf auth login', or set HF_TOKEN"):
        push(folder)
    real = builtins.__import__

    def without(name, *more):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'normpipe\[hub\]'"):
        push(folder)
    assert not hub.asked and "huggingface_hub" in sys.modules
