"""From a dataset to one row a labelled input, and its pictures."""

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from normpipe.pipeline.errors import InputError
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.read.exclusions import write_exclusions
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.lock import locked
from normpipe.pipeline.store.shards import ShardFolder
from normpipe.stages.classification.listing import (
    ViewStore,
    counted_statuses,
    input_paths,
    list_faces,
    list_rows,
    normalized_by,
    photographs,
    rows_digest,
)
from normpipe.stages.classification.tasks import Task
from normpipe.stages.training.pictures import Form

from .faces import Face, count_openings, opened, write_faces

BOTH = ("original", "normalized")
TASK = Task("emotion", ("neutral", "happiness"))


def several(**change):
    """Two usable inputs, one of three faces, one rejected, one without labels."""
    faces = [
        Face("d/a.jpg", {"emotion": "neutral", "subject": "ann"}, original=10),
        Face("d/b.jpg#1", {"emotion": "happiness"}, size=50, original=20),
        Face("d/b.jpg#2", {"emotion": "happiness"}, size=80, original=30),
        Face("d/b.jpg#3", {"emotion": "happiness"}, "rejected", "blurred", size=200),
        Face("d/c.jpg", {"emotion": "neutral"}, "rejected", "no_face"),
        Face("d/e.jpg", {}, original=50),
    ]
    for place, values in change.items():
        for name, value in values.items():
            setattr(faces[int(place[1:])], name, value)
    return faces


def grey(item):
    return int(np.asarray(Image.open(io.BytesIO(item)).convert("L")).mean())


def originals(listing):
    items = listing.dataset.__getitems__(listing.items.tolist())
    return [item["image"] and grey(item["image"]) for item in items]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("job"), several())


def refused(words, *args):
    with pytest.raises(InputError, match=words) as caught:
        path, *others = args
        list_faces(opened(path), *others)
    assert "\n" not in str(caught.value)


def test_excluded_inputs_neither_train_nor_test(tmp_path):
    job = write_faces(tmp_path / "job", several(_5={"labels": {"emotion": "neutral"}}))
    whole, digest = list_faces(opened(job), BOTH), rows_digest(list_rows(opened(job), BOTH))
    assert (whole.excluded, whole.notes) == (0, ())
    with locked(job):
        rows = [("d/b.jpg#2", "blurred"), ("d/c.jpg", "no face, and stays so")]
        table = {"key": [key for key, _ in rows], "reason": [why for _, why in rows]}
        write_exclusions(job, pa.table({**table, "excluded_on": ["2026-12-01"] * 2}))
    # The input's largest face is out, and no other takes its label.
    found = list_faces(opened(job), BOTH)
    assert found.column("key") == ["d/a.jpg", "d/c.jpg", "d/e.jpg"] and found.excluded == 1
    assert found.notes == ("1 inputs are excluded (normpipe exclude): they neither train nor test",)
    assert found.take([0, 2]).excluded == 1
    assert found.digest(TASK) != whole.digest(TASK)
    assert found.take([0]).digest(TASK) == whole.take([0]).digest(TASK)  # unchanged rows
    # All rows are listed for predictions and measurements, and say it.
    rows = list_rows(opened(job), BOTH)
    assert rows.column("status").count("excluded") == 1 and len(rows) == 6
    assert rows_digest(rows) != digest
    counts = Counter(rows.column("status"))
    assert counted_statuses(counts) == "3 ok, 2 rejected, 0 failed, 1 excluded"
    assert counted_statuses({"ok": 3}) == "3 ok, 0 rejected, 0 failed"


def test_one_row_an_input_the_largest_face(job):
    listing = list_faces(opened(job), BOTH)
    assert listing.column("key") == ["d/a.jpg", "d/b.jpg#2", "d/c.jpg", "d/e.jpg"]
    assert listing.usable.tolist() == [True, True, False, True]
    assert listing.column("emotion") == ["neutral", "happiness", "neutral", None]
    assert listing.column("reason") == [None, None, "no_face", None]
    assert originals(listing) == [10, 30, None, 50]
    assert listing.subjects() == ["ann", None, None, None]
    assert listing.variants == ("compact",) and listing.name == "d"
    assert listing.column("mood") == [None] * 4
    some = listing.take([3, 1])
    assert len(some) == 2 and some.column("key") == ["d/e.jpg", "d/b.jpg#2"]
    assert originals(some) == [50, 30]


def test_of_faces_of_which_none_is_usable_one_stays(tmp_path):
    lost = {"status": "rejected", "reason": "blurred"}
    listing = list_faces(opened(write_faces(tmp_path, several(_1=lost, _2=lost))), BOTH)
    assert listing.column("key")[1] == "d/b.jpg#1"
    assert not listing.usable[1]


def test_labels_may_stand_in_the_shards(tmp_path):
    """Pairs that need nothing beside them; they do not say how large faces are."""
    write_faces(tmp_path, several(), inside=True)
    listing = list_faces(opened(tmp_path / "pairs"), BOTH)
    assert listing.column("key") == ["d/a.jpg", "d/b.jpg#1", "d/c.jpg", "d/e.jpg"]
    assert listing.column("emotion") == ["neutral", "happiness", "neutral", None]
    assert listing.usable.tolist() == [True, True, False, True]
    assert originals(listing) == [10, 20, None, 50]
    assert listing.variants == ("compact",)


def test_pairs_with_pictures_know_what_those_came_from(tmp_path):
    """So the largest face is taken, and a classifier knows normalizer and photographs."""
    faces = several()
    for number, face in enumerate(faces):
        face.source = f"s{number}"
    write_faces(tmp_path, faces, inside=True, origins=True)
    alone = (tmp_path / "pairs").rename(tmp_path / "alone")  # away from its job
    listing = list_faces(opened(alone), BOTH)
    assert listing.column("key")[1] == "d/b.jpg#2" and originals(listing) == [10, 30, None, 50]
    assert normalized_by(listing) == ("w",)
    usable = listing.take(np.flatnonzero(listing.usable))
    assert photographs(usable) == [
        next(face.source for face in faces if face.key == key) for key in usable.column("key")
    ]
    index = list_faces(opened(write_faces(tmp_path / "index", faces)), BOTH)
    assert photographs(index.take(np.flatnonzero(index.usable))) == photographs(usable)


def test_pairs_with_pictures_of_before_learn_their_weights_from_the_job(tmp_path):
    write_faces(tmp_path, several(), inside=True)
    listing = list_faces(opened(tmp_path / "pairs"), BOTH)
    assert normalized_by(listing) is None and photographs(listing) == [None] * 4
    made = ShardFolder(tmp_path / "normalized/compact").stage_path
    write_json(made, {"digests": {"weights": "w"}})
    assert normalized_by(listing) == ("w",)
    (tmp_path / "job.json").unlink()  # who knows what that is beside them
    assert normalized_by(listing) is None


def test_variants(tmp_path):
    write_faces(tmp_path, several(), variants=("one", "two"))
    refused("several variants: choose one of one, two .*evaluate.variant", tmp_path, BOTH)
    refused("no variant 'tow'.*did you mean 'two'", tmp_path, BOTH, "tow")
    listing = list_faces(opened(tmp_path), BOTH, "two")
    assert listing.column("key")[1] == "d/b.jpg#2@two" and len(listing) == 4
    # A score says which of them it is about.
    assert listing.variants == ("two",) and listing.usable.sum() == 3


def test_what_is_not_there_is_one_line(job, tmp_path):
    bare = write_faces(tmp_path / "bare", [Face("d/a.jpg"), Face("d/b.jpg")])
    refused("has no labels", bare, BOTH)
    refused("no folder", tmp_path / "nowhere", BOTH)
    refused("no normalized faces side by side", job / "aligned", BOTH)
    assert len(list_faces(opened(job / "aligned"), ("original",))) == 4


@pytest.mark.parametrize("inside", [False, True])
def test_all_that_is_asked_of_a_listing_opens_its_dataset_once(tmp_path, monkeypatch, inside):
    write_faces(tmp_path, several(), inside=inside)
    openings = count_openings(monkeypatch)
    dataset = opened(tmp_path)
    listing = list_faces(dataset, BOTH)
    assert len(list_rows(dataset, ("original",))) == 6
    faces = listing.take(np.flatnonzero(listing.usable))
    ViewStore(faces, "normalized", Form(False, 24, exact=True), 1e9)
    assert normalized_by(listing) == (None if inside else ("w",))
    assert listing.digest(TASK) and input_paths(listing).null_count == 4
    assert openings == [tmp_path]


def test_a_listing_wants_all_rows(job):
    with pytest.raises(ValueError, match="status='all'"):
        list_rows(open_dataset(job, decode=False), BOTH)


def test_the_digest_is_of_pictures_labels_and_rows(job, tmp_path):
    def digest(folder, task=TASK, rows=None, **change):
        path = write_faces(tmp_path / folder, several(**change))
        listing = list_faces(opened(path), BOTH)
        return (listing if rows is None else listing.take(rows)).digest(task)

    same = digest("same")
    assert same == list_faces(opened(job), BOTH).digest(TASK)
    other = {
        "label": digest("label", _0={"labels": {"emotion": "happiness"}}),
        "status": digest("status", _0={"status": "failed", "reason": "truncated"}),
        "rows": digest("rows", rows=[0, 1]),
    }
    assert len({same, *other.values()}) == 4
    classes = digest("same2", task=Task("action_units", ("AU1",)))
    assert classes != same
    # A subject's name is no truth.
    assert digest("who", _0={"labels": {"emotion": "neutral", "subject": "eve"}}) == same


def test_another_picture_is_another_digest(tmp_path):
    """Aligned and normalized shards enter by the pair's fingerprint, which the engine makes."""
    for name in ("one", "two"):
        write_faces(tmp_path / name, several())
    record = ShardFolder(tmp_path / "two/pairs").record_path(0)
    record.write_text(record.read_text().replace('"fingerprint": "x"', '"fingerprint": "y"'))
    one, two = (list_faces(opened(tmp_path / name), BOTH).digest(TASK) for name in ("one", "two"))
    assert one != two


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_held_or_read_anew_the_pixels_are_the_same(tmp_path, colour, threads):
    rng = np.random.default_rng(0)
    faces = [
        Face(f"d/{n:03}.jpg", {"emotion": "neutral"}, original=rng.integers(0, 256, (40, 40)))
        for n in range(300)
    ]
    listing = list_faces(opened(write_faces(tmp_path, faces)), BOTH)
    form = Form(colour, 24, exact=True)
    held = ViewStore(listing, "original", form, 1e9, threads)
    streamed = ViewStore(listing, "original", form, 0, threads)
    rows = np.array([299, 0, 5, 5, 257])
    found = held.take(rows)
    assert found.shape == (5, 3 if colour else 1, 24, 24) and found.dtype == np.uint8
    assert np.array_equal(found, streamed.take(rows))
    assert not np.array_equal(found[0], found[1])
    other = ViewStore(listing, "normalized", form, 1e9).take(rows)
    assert (other == 160).all()
