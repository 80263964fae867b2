"""Nothing leaves that no licence or permission covers."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest

from normpipe.manifests.datasets import Terms, described, load_description
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.checks.model_files import SHIPPED, recorded_digest
from normpipe.stages.faces.packs import TERMS
from normpipe.stages.publishing.licence_gate import PARTS, Origin, find_origin, require_grant
from normpipe.stages.publishing.made_by import code_version, find_makers

SAMPLES = [
    hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(Path(str(files("normpipe.stages") / "samples")).glob("*.jpg"))
]


@pytest.mark.parametrize("name", [n for n in described() if n != "folders"])
def test_no_known_dataset_leaves_without_permission(name):
    origin = find_origin({"ingest": {"release": name}}, ["f" * 64])
    assert origin.by == "normpipe" and origin.title == load_description(name).title
    with pytest.raises(InputError, match="--i-have-permission"):
        require_grant(origin, [*PARTS], "", "")
    with pytest.raises(InputError, match="--i-have-permission"):
        require_grant(origin, ["derived_pictures"], "CC0-1.0", "")  # not theirs to give
    grant = require_grant(origin, [*PARTS], "", "the owner, 2026-01-01")
    assert grant.permission == "the owner, 2026-01-01" and "derived_pictures" in grant.needed


def test_labels_that_are_free_need_no_permission():
    origin = find_origin({"ingest": {"release": "ferplus"}}, [])
    grant = require_grant(origin, ["derived_pictures", "labels"], "", "we asked")
    assert grant.needed == ("derived_pictures",)


@pytest.mark.parametrize("name", ["AffectNet", "raf-db", "bp4d_plus", "BP4D+", "CK+"])
def test_a_dataset_is_known_by_its_name(name):
    assert find_origin({"dataset": name}, []).terms is not None


def test_an_unknown_dataset_needs_a_licence():
    for job in ({}, {"dataset": "faces"}, {"ingest": {"release": "folders"}}, {"dataset": "bp4"}):
        origin = find_origin(job, ["f" * 64])
        assert origin == Origin()
        with pytest.raises(InputError, match="add --licence"):
            require_grant(origin, ["derived_pictures"], "", "I may")
    grant = require_grant(Origin(), ["derived_pictures"], "CC-BY-NC-4.0", "")
    assert grant.stated and grant.non_commercial == "yes" and not grant.needed
    with pytest.raises(InputError, match="forbids pictures made from its pictures"):
        require_grant(Origin(), ["derived_pictures"], "CC-BY-NC-ND-4.0", "")
    assert require_grant(Origin(), ["derived_pictures"], "CC-BY-ND-4.0", "them").needed


def test_the_samples_are_free(tmp_path):
    origin = find_origin({"dataset": "samples"}, SAMPLES[:3])
    assert require_grant(origin, [*PARTS], "", "").licence == "apache-2.0"
    assert find_origin({"dataset": "samples"}, [*SAMPLES[:3], "f" * 64]).terms is None
    assert find_origin({"dataset": "samples"}, []).terms is None
    assert find_origin({"dataset": "samples"}, [None]).terms is None


def test_a_users_description_counts(tmp_path):
    text = 'title = "Studio"\n[layouts.x]\npictures = "*.jpg"\n'
    file = tmp_path / "studio.toml"
    job = {"ingest": {"release_file": str(file)}}
    assert find_origin(job, []) == Origin()  # it is gone
    file.write_text(text)
    with pytest.raises(InputError, match="Studio: no source says"):
        require_grant(find_origin(job, []), ["derived_pictures"], "", "")
    file.write_text(text + '[terms]\nderived_pictures = "yes"\nlabels = "no"\nlicence = "ours"\n')
    origin = find_origin(job, [])
    assert require_grant(origin, ["derived_pictures"], "", "").licence == "ours"
    with pytest.raises(InputError, match="forbids giving others its labels"):
        require_grant(origin, ["derived_pictures", "labels"], "", "")


def test_every_description_says_where_its_terms_are_from():
    for name in described():
        terms = load_description(name).terms
        assert terms.sources or terms == Terms(), name
        assert terms.sources or name == "folders"


def described_folder(path: Path, **made) -> ShardFolder:
    folder = ShardFolder(path)
    folder.metadata_folder.mkdir(parents=True)
    import json

    folder.stage_path.write_text(json.dumps(made))
    return folder


def test_makers_are_named_with_their_licences(tmp_path):
    weights = recorded_digest(SHIPPED / "compact.json")
    shipped = described_folder(
        tmp_path / "a",
        stage="normalize",
        settings={"network": "compact"},
        digests={"weights": weights},
    )
    pack = described_folder(
        tmp_path / "b", stage="align", settings={"detector": "insightface"}, digests={"d.onnx": "1"}
    )
    job = {"align": {"pack": "home/models/buffalo_l"}}
    normalizer, detector = find_makers(job, shipped, pack, "")
    assert normalizer.name == "compact" and "FER2013" in normalizer.licence
    assert normalizer.sha256 == {"compact.safetensors": weights}
    assert detector.name == "insightface, buffalo_l" and detector.licence == TERMS
    assert detector.non_commercial and not normalizer.non_commercial

    own = described_folder(
        tmp_path / "c", stage="normalize", settings={"network": "norface"}, digests={"weights": "2"}
    )
    imported = described_folder(tmp_path / "d", stage="import-variant", settings={}, digests={})
    opencv = described_folder(
        tmp_path / "e", stage="align", settings={"detector": "opencv"}, digests={}
    )
    (first, second) = find_makers({}, own, opencv, "MIT")
    assert (first.licence, first.sha256) == (
        "MIT",
        {"weights": "2"},
    ) and "Apache-2.0" in second.licence
    (alone,) = find_makers({}, imported, ShardFolder(tmp_path / "none"), "")
    assert "made by others" in alone.name and alone.licence == "not stated"
    own_pack = find_makers({"align": {"pack": "secret/mine"}}, own, pack, "")[1]
    assert "secret" not in own_pack.name and own_pack.non_commercial


def test_the_version_is_said():
    assert code_version().startswith("0.")
