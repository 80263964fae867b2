import json

import pyarrow as pa
import pytest

from normpipe.manifests import schema
from normpipe.manifests.schema import COMMON, IMAGE, LABEL_COLUMNS, SCHEMA_VERSION

ALL = {name: value for name, value in vars(schema).items() if isinstance(value, pa.Schema)}


@pytest.mark.parametrize("name", ALL)
def test_every_dataset_starts_with_the_common_columns(name):
    assert [(f.name, f.type) for f in ALL[name]][: len(COMMON)] == COMMON
    assert len(set(ALL[name].names)) == len(ALL[name].names)


@pytest.mark.parametrize("name", ALL)
def test_the_metadata_names_version_and_pictures(name):
    metadata = ALL[name].metadata
    assert int(metadata[b"normpipe_schema_version"]) == SCHEMA_VERSION
    pictures = [field.name for field in ALL[name] if field.type == IMAGE]
    assert (b"huggingface" in metadata) == bool(pictures)
    if pictures:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        assert features == {name: {"_type": "Image"} for name in pictures}


def test_own_metadata_stands_beside_ours():
    made = schema.schema([("x", pa.int8())], {"who": "me"})
    assert made.metadata[b"who"] == b"me"
    assert b"normpipe_schema_version" in made.metadata


def test_labels_never_collide_with_what_stands_beside_them():
    labels = {name for name, _ in LABEL_COLUMNS} - {"key"}
    for made in ALL.values():
        assert not labels & set(made.names)
