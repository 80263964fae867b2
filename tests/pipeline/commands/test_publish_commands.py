"""export and push as a user calls them: questions, places, and what the end line says."""

import csv
import json
import stat

import pytest
from typer.testing import CliRunner

from normpipe.pipeline.commands import publish_commands
from normpipe.pipeline.commands.app import app

from ...stages.publishing.exports import NAMES, make_job, tree
from ...stages.publishing.hub_server import serving
from ..calling import call, refused


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("job"), dataset="faces", input_root="")


LICENCE = ("--licence", "CC-BY-4.0")


def test_export_needs_a_licence_and_says_what_it_did(job, tmp_path):
    out = tmp_path / "faces 1"
    refused(call("export", job, "--to", out), "add --licence")
    assert not out.exists()
    done = call("export", job, "--to", out, *LICENCE)
    assert done.exit_code == 0, done.output
    assert "24 of 26 rows exported: train 14, test 8, unassigned 2" in done.stdout
    assert "2 left out: failed: truncated 1, rejected: no_face 1" in done.stdout
    about = json.loads((out / "export.json").read_bytes())
    assert about["name"] == "faces_1" and about["licence"] == "CC-BY-4.0"
    again = call("export", job, "--to", out, *LICENCE)
    assert "already complete" in again.stdout and again.exit_code == 0
    refused(call("export", job, "--to", out, *LICENCE, "--columns", "key"), "--overwrite")


def test_a_known_release_needs_a_permission_which_the_card_states(tmp_path):
    job = make_job(tmp_path / "job", ingest={"release": "affectnet"})
    line = refused(
        call("export", job, "--to", tmp_path / "out"), "AffectNet", "--i-have-permission"
    )
    assert "agreement itself was not read" in line
    done = call("export", job, "--to", tmp_path / "out", "--i-have-permission", "M., 2026-11-30")
    assert done.exit_code == 0, done.output
    card = (tmp_path / "out/README.md").read_text()
    assert '"M., 2026-11-30"' in card and "AffectNet" in card and "Non-commercial use only" in card


def test_originals_are_asked_for(job, tmp_path, monkeypatch):
    out = tmp_path / "out"
    options = ("export", job, "--to", out, *LICENCE, "--with-originals")
    refused(call(*options), "24 real faces", "Add --yes")
    assert not out.exists()
    assert call(*options, "--yes").exit_code == 0
    assert call(*options).exit_code == 0  # it was agreed to already
    monkeypatch.setattr(publish_commands, "_has_terminal", lambda: True)
    typed = [str(one) for one in (*options[:3], tmp_path / "no", *options[4:])]
    said_no = CliRunner().invoke(app, typed, input="n\n")
    assert said_no.exit_code == 2 and "nothing was done" in said_no.stderr
    assert "24 real faces" in said_no.stderr and not (tmp_path / "no").exists()
    assert CliRunner().invoke(app, typed, input="y\n").exit_code == 0


def test_hashed_keys_keep_their_salt_at_home(job, tmp_path):
    salt, keys = tmp_path / "home/salt.txt", tmp_path / "home/keys.csv"
    options = ("export", job, *LICENCE, "--hash-keys", "--salt", salt, "--columns", "subject")
    assert call(*options, "--to", tmp_path / "a", "--name", "x", "--key-map", keys).exit_code == 0
    assert call(*options, "--to", tmp_path / "b", "--name", "x").exit_code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for file in (salt, keys):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = salt.read_text().strip()
    for name, data in tree(tmp_path / "a").items():
        assert not any(one.encode() in name.encode() + data for one in (*NAMES, text)), name
    with keys.open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert len(rows) == 24 and rows[0]["key"] == "faces/bert/0.smile.jpg"
    import hmac

    made = hmac.digest(bytes.fromhex(text), rows[0]["key"].encode(), "sha256").hex()[:32]
    assert made == rows[0]["hash"]
    salt.chmod(0o644)
    refused(call(*options, "--to", tmp_path / "c"), "chmod 600")
    salt.write_text("short")
    salt.chmod(0o600)
    refused(call(*options, "--to", tmp_path / "c"), "is no salt")


def test_places_that_would_mix_things_up_are_refused(job, tmp_path):
    refused(call("export", job, "--to", job / "out", *LICENCE), "within one another")
    out = tmp_path / "out"
    hashed = ("export", job, "--to", out, *LICENCE, "--hash-keys")
    refused(call(*hashed, "--salt", out / "salt"), "must stay at home")
    refused(call(*hashed, "--key-map", out / "keys.csv"), "must stay at home")
    refused(call("export", job, "--to", out, *LICENCE, "--salt", "s"), "is for --hash-keys")
    refused(call("export", job, "--to", out, *LICENCE, "--format", "hup"), "did you mean 'hub'")
    refused(call("export", tmp_path, "--to", out), "holds no normpipe job")
    refused(call("export", job, "--to", "s3://bucket/out", *LICENCE), "must be a folder")
    assert not out.exists()


def test_the_demos_folder_is_its_job(tmp_path):
    make_job(tmp_path / "demo/job")
    assert call("export", tmp_path / "demo", "--to", tmp_path / "out", *LICENCE).exit_code == 0


def test_push_asks_first(job, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert call("export", job, "--to", out, *LICENCE).exit_code == 0
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        asked = call("push", out, "--repo", "lab/faces")
        refused(asked, "Upload it?", "Add --yes")
        assert f"to {hub.address}/datasets/lab/faces, branch main, private" in asked.stdout
        assert not hub.files and not hub.repos
        done = call("push", out, "--repo", "lab/faces", "--yes")
        assert done.exit_code == 0 and hub.files == tree(out), done.output
    refused(call("push", tmp_path, "--repo", "lab/faces"), "is no finished export")
