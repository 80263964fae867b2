"""A withdrawal that is decided is carried out."""

import pyarrow as pa

from normpipe.pipeline.care.withdrawal import neutral


def test_a_neutral_row_keeps_types_and_the_variant() -> None:
    picture = pa.array([{"bytes": b"a", "path": "p"}, {"bytes": b"b", "path": "q"}])
    before = pa.table(
        {
            "key": ["k", "l"], "parent_key": ["k", "l"], "status": ["ok", "ok"],
            "reason": pa.nulls(2, pa.string()), "decided_by": ["x", "x"], "image": picture,
            "variant": ["v", "w"], "points": [[[1.0]], [[2.0]]],
        }
    )  # fmt: skip
    after = neutral(before, 10, {11: ("n#face1", "n")})
    assert after.schema == before.schema and after.slice(0, 1).equals(before.slice(0, 1))
    assert after.slice(1, 1).to_pylist() == [
        {
            "key": "n#face1", "parent_key": "n", "status": "rejected", "reason": "withdrawn",
            "decided_by": "withdraw", "image": None, "variant": "w", "points": None,
        }
    ]  # fmt: skip
    assert neutral(before, 12, {11: ("n", "n")}) is before
