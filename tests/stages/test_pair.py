import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from normpipe.manifests.schema import ALIGNED, IMAGE, NORMALIZED, ORIGINS, PAIRS
from normpipe.pipeline.config import load_job
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.store.commit import write_json
from normpipe.pipeline.store.shards import ShardFolder, ShardWriter, write_table
from normpipe.stages import CONFIGS, build_flow
from normpipe.stages.pair import Pair, PairConfig


def row(key, status="ok", reason=None, by=None, parent=None, picture=True):
    image = {"bytes": f"picture of {key} by {by}".encode(), "path": key} if picture else None
    return {
        "key": key,
        "parent_key": parent or key.partition("#")[0],
        "status": status,
        "reason": reason,
        "decided_by": by,
        "image": image if status == "ok" else None,
    }


def aligned(*rows):
    return [row(*r[:1], *r[1:3], by=r[3] if len(r) > 3 else "align") for r in rows]


def write(root, name, rows, schema, number=0):
    folder = ShardFolder(root / name)
    writer = ShardWriter(folder, number, schema)
    writer.add(rows)
    writer.commit("x", None)
    return folder.read(number)


def join(tmp_path, originals, *variants, names=("compact",), labels=None, **settings):
    stage = Pair(PairConfig(variants=names, **settings), labels)
    inputs = [write(tmp_path, "aligned", originals, ALIGNED)]
    for name, rows in zip(names, variants, strict=True):
        inputs.append(write(tmp_path, f"normalized/{name}", rows, NORMALIZED))
    wanted = {*stage.columns, "shard", "row_group", "row"}
    # As the engine reads them: what a dataset does not have is left out.
    read = [table.select([n for n in table.column_names if n in wanted]) for table in inputs]
    tables = list(stage.join(0, read))
    # As the engine does: schema, unique keys and row groups are checked by the writer.
    writer = ShardWriter(ShardFolder(tmp_path / "pairs"), 0, stage.schema)
    for table in tables:
        writer.add_table(table)
    writer.commit("x", None)
    return pa.concat_tables(tables)


def decisions(table):
    columns = ("key", "status", "reason", "decided_by")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def places(table, side):
    names = [f"{side}_{name}" for name in ("shard", "row_group", "row")]
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


NOWHERE = (None, None, None)


def test_every_case_has_its_row_and_its_places(tmp_path):
    originals = aligned(
        ("d/ok",),
        ("d/black",),
        ("d/lost",),
        ("d/noface", "rejected", "no_face"),
        ("d/gone", "failed", "missing_file", "ingest"),
    )
    faces = [
        row("d/stray", by="normalize"),
        row("d/ok", by="normalize"),
        row("d/black", "rejected", "black_output", "normalize"),
        row("d/noface", "rejected", "no_face", "align"),
    ]
    found = join(tmp_path, originals, faces)
    assert found.schema.equals(PAIRS)
    assert decisions(found) == [
        ("d/ok", "ok", None, "pair"),
        ("d/black", "rejected", "black_output", "normalize"),
        ("d/lost", "rejected", "no_normalized", "pair"),
        ("d/noface", "rejected", "no_face", "align"),
        ("d/gone", "failed", "missing_file", "ingest"),
        ("d/stray", "rejected", "no_original", "pair"),
    ]
    assert places(found, "aligned") == [(0, 0, 0), (0, 0, 1), (0, 0, 2), NOWHERE, NOWHERE, NOWHERE]
    assert places(found, "normalized") == [(0, 0, 1), *[NOWHERE] * 4, (0, 0, 0)]
    assert found["variant"].to_pylist() == ["compact"] * 6


def test_places_count_within_row_groups(tmp_path):
    names = [f"d/{i:03d}" for i in range(150)]
    originals = aligned(*((name,) for name in names))
    faces = [row(name, by="normalize") for name in reversed(names)]
    found = join(tmp_path, originals, faces)
    assert places(found, "aligned")[130] == (0, 2, 2)
    assert places(found, "normalized")[130] == (0, 0, 19)
    file = pq.ParquetFile(tmp_path / "normalized/compact/shard-00000.parquet")
    assert file.read_row_group(0)["key"][19].as_py() == found["key"][130].as_py()


def test_several_faces_keep_the_input_as_parent(tmp_path):
    originals = aligned(("d/x#face0",), ("d/x#face1",))
    faces = [row(r["key"], by="normalize", parent=r["key"]) for r in originals]
    found = join(tmp_path, originals, faces)
    assert found["key"].to_pylist() == ["d/x#face0", "d/x#face1"]
    assert found["parent_key"].to_pylist() == ["d/x", "d/x"]


def test_several_variants_stand_side_by_side(tmp_path):
    originals = aligned(("d/a",), ("d/b",))
    one = [row("d/a", by="normalize"), row("d/b", by="normalize")]
    found = join(tmp_path, originals, one, [], names=("compact", "large"))
    assert decisions(found) == [
        ("d/a@compact", "ok", None, "pair"),
        ("d/a@large", "rejected", "no_normalized", "pair"),
        ("d/b@compact", "ok", None, "pair"),
        ("d/b@large", "rejected", "no_normalized", "pair"),
    ]
    assert found["parent_key"].to_pylist() == ["d/a", "d/a", "d/b", "d/b"]


def test_it_reads_and_writes_where_it_says():
    stage = Pair(PairConfig(variants=("compact", "large")))
    assert stage.reads == ("aligned", "normalized/compact", "normalized/large")
    assert (stage.name, stage.writes, stage.schema) == ("pair", "pairs", PAIRS)
    assert "image" not in (stage.columns or ["image"])


def test_variants_are_one_name_or_several():
    assert PairConfig(variants="large").variants == ("large",)
    with pytest.raises(InputError, match=r"pair\.variants"):
        Pair(PairConfig())


@pytest.mark.parametrize("names", [("a", "a"), ("a/b",), ("a@b",), ("",)])
def test_variant_names_are_checked(names):
    with pytest.raises(ValidationError):
        PairConfig(variants=names)


def test_materialized_shards_stand_on_their_own(tmp_path):
    labels = pa.table(
        {
            "key": ["d/b", "d/x", "d/other"],
            "emotion": ["fear", "anger", "sadness"],
            "AU1": pa.array([1, None, 0], pa.int8()),
        }
    )
    originals = aligned(("d/a",), ("d/b",), ("d/noface", "rejected", "no_face"), ("d/x#face1",))
    faces = [
        row("d/b", "rejected", "flat_output", "normalize"),
        row("d/x#face1", by="normalize", parent="d/x#face1"),
        row("d/a", by="normalize"),
    ]
    found = join(tmp_path, originals, faces, labels=labels, materialize=True)
    assert decisions(found) == [
        ("d/a", "ok", None, "pair"),
        ("d/b", "rejected", "flat_output", "normalize"),
        ("d/noface", "rejected", "no_face", "align"),
        ("d/x#face1", "ok", None, "pair"),
    ]
    pictures = [
        [None if cell is None else cell["bytes"].decode() for cell in found[name].to_pylist()]
        for name in ("image", "normalized")
    ]
    assert pictures[0] == [
        "picture of d/a by align",
        "picture of d/b by align",
        None,
        "picture of d/x#face1 by align",
    ]
    assert pictures[1] == [
        "picture of d/a by normalize",
        None,
        None,
        "picture of d/x#face1 by normalize",
    ]
    assert found["emotion"].to_pylist() == [None, "fear", None, "anger"]
    assert found["AU1"].to_pylist() == [None, 1, None, None]
    assert found.schema.field("normalized").type == IMAGE
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == {"image", "normalized"}


def test_materialized_shards_say_what_their_pictures_came_from(tmp_path):
    originals = aligned(("d/a",), ("d/b",), ("d/noface", "rejected", "no_face"))
    for number, found in enumerate(originals[:2]):
        found |= {"source_sha256": f"s{number}", "face_size_px": 90.0 + number}
    faces = [row("d/b", by="normalize"), row("d/a", "rejected", "flat_output", "normalize")]
    faces[0]["weights_sha256"] = "w"
    found = join(tmp_path, originals, faces, materialize=True, origins=True)
    assert found["source_sha256"].to_pylist() == ["s0", "s1", None]
    assert found["face_size_px"].to_pylist() == [90.0, 91.0, None]
    assert found["normalized_weights_sha256"].to_pylist() == [None, "w", None]
    plain = join(tmp_path, originals, faces, materialize=True)
    assert plain.column_names == [n for n in found.column_names if n not in dict(ORIGINS)]


def test_materialized_shards_that_were_begun_without_origins_go_on_without(tmp_path):
    """Neither their fingerprints nor their columns change: a release made them."""
    given = {"input": tmp_path, "output": tmp_path / "out", "dataset": "d"}

    def pairing(**settings):
        sets = ["pair.materialize=true", *(f"pair.{n}={v}" for n, v in settings.items())]
        return build_flow(load_job(None, given, sets, CONFIGS))[-1]

    new = pairing()
    assert new.config.shaping()["origins"] and {*dict(ORIGINS)} <= {*new.schema.names}
    folder = ShardFolder(tmp_path / "out/pairs")
    for begun, there in (({"materialize": True}, False), (new.config.shaping(), True)):
        write_json(folder.stage_path, {"settings": begun})
        stage = pairing()
        assert stage.config.shaping().get("origins", False) == there
        assert ("source_sha256" in stage.schema.names) == there
    assert "source_sha256" not in pairing(origins="false").schema.names


def test_materialized_row_groups_are_small(tmp_path):
    names = [f"d/{i:03d}" for i in range(100)]
    originals = aligned(*((name,) for name in names))
    faces = [row(name, by="normalize") for name in names]
    variants = (faces, faces)
    join(tmp_path, originals, *variants, names=("a", "b"), materialize=True)
    file = pq.ParquetFile(tmp_path / "pairs/shard-00000.parquet")
    rows = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    assert rows == [64, 64, 64, 8]


@pytest.mark.parametrize("materialize", [False, True])
def test_an_empty_shard_stays_one(tmp_path, materialize):
    found = join(tmp_path, [], [], materialize=materialize)
    assert found.num_rows == 0


def test_labels_count_only_where_they_are_written():
    labels = pa.table({"key": ["d/a"], "emotion": ["fear"]})
    other = pa.table({"key": ["d/a"], "emotion": ["anger"]})
    chunked = pa.concat_tables([labels.slice(0, 1), labels.slice(0, 0)])

    def digest(table, materialize=True):
        config = PairConfig(variants=("compact",), materialize=materialize)
        return Pair(config, table).digests()

    assert digest(labels) == digest(chunked) != digest(other)
    assert digest(labels, materialize=False) == digest(None) == {}


def test_labels_are_read_when_the_stage_opens(tmp_path):
    config = PairConfig(variants=("compact",), materialize=True)
    labels = pa.table({"key": ["d/a"], "emotion": ["fear"]})
    stage = Pair(config, tmp_path / "labels.parquet")
    stage.open()  # ingest may have found none
    assert "emotion" not in stage.schema.names and stage.digests() == {}
    write_table(tmp_path / "labels.parquet", labels)
    stage.open()
    assert "emotion" in stage.schema.names
    assert stage.digests() == Pair(config, labels).digests()
