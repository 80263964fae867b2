"""README.md of a job's folder: what is in it, and how other tools open it.

Its head is what Hugging Face ``datasets`` reads: ``load_dataset(OUT, NAME)`` opens the ok rows of a
dataset. Shards hold rows of all splits, so a split is a condition on rows, not a choice of files.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ...manifests.schema import IMAGE
from ...manifests.vocabularies import sorted_emotions
from ..store.commit import write_if_changed
from ..store.derive import totals
from ..store.labels import LABELS_FILE, own_label_columns, read_labels
from ..store.layout import CARD_FILE
from ..store.shards import ShardFolder, datasets_in

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

_SPLIT, _EMOTION = "split", "emotion"


def write_job_card(root: Path) -> None:
    """Write the card of a job's folder, if that has a finished dataset."""
    made = {name: one for name, one in datasets_in(root).items() if one.records()}
    if not made:
        return
    labels = read_labels(root / LABELS_FILE) if (root / LABELS_FILE).is_file() else None
    write_if_changed(root / CARD_FILE, _card(made, labels).encode())


def _card(made: dict[str, ShardFolder], labels: pa.Table | None) -> str:
    splits = _counts(labels, _SPLIT)
    emotions = _counts(labels, _EMOTION)
    classes = sorted_emotions(emotions)
    head: dict[str, Any] = {
        "tags": ["normpipe", "facial-expression"],
        "configs": [one for name in made for one in _configs(name, made[name], [*splits])],
    }
    if labels is not None:
        head["configs"].append({"config_name": "labels", "data_files": LABELS_FILE})
    lines = [
        "---",
        json.dumps(head, indent=1, ensure_ascii=False),
        "---",
        "# A job of normpipe",
        "",
        "Faces with the expressions of photographs, and what was made on the way. Each folder of "
        "shards opens as it is;",
        "`_NAME/` beside it says what made it, and `normpipe status` counts what was left out, and "
        "why.",
        "",
        "| dataset | rows | ok | pictures |",
        "|---|---|---|---|",
        *(_line(name, folder) for name, folder in made.items()),
        "",
        "Rows that are not `ok` have no picture, or none that is usable: `status`, `reason`.",
        "",
        *_openings(made, labels),
    ]
    if splits:
        lines += ["| split | inputs |", "|---|---|"]
        lines += [f"| {_cell(name)} | {count} |" for name, count in splits.items()]
        lines.append("")
    if emotions:
        lines += ["| number | emotion | inputs |", "|---|---|---|"]
        lines += [f"| {n} | {_cell(one)} | {emotions[one]} |" for n, one in enumerate(classes)]
        lines += ["", "The numbers are those that `normpipe export` gives them if no protocol says "
                  "otherwise; the datasets here have names.", ""]  # fmt: skip
    lines += [
        "This folder may hold real faces, and names of files and people. `normpipe export` makes "
        "what others may get.",
        "",
    ]
    return "\n".join(lines)


def _configs(name: str, folder: ShardFolder, splits: list[str]) -> list[dict[str, Any]]:
    """Return how ``datasets`` opens a dataset: its ok rows; by split where the rows have it."""
    files, config = f"{name}/shard-*.parquet", name.replace("/", "-")
    ok = ["status", "==", "ok"]
    found = [{"config_name": config, "data_files": files, "filters": [ok]}]
    if splits and _SPLIT in own_label_columns(_schema(folder)):
        found += [
            {
                "config_name": f"{config}-{split}",
                "data_files": [{"split": "train", "path": files}],
                "filters": [ok, [_SPLIT, "==", split]],
            }
            for split in splits
        ]
    return found


def _schema(folder: ShardFolder) -> pa.Schema:
    return folder.schema(next(iter(folder.records())))


def _pictures(folder: ShardFolder) -> list[str]:
    return [field.name for field in _schema(folder) if field.type == IMAGE]


def _line(name: str, folder: ShardFolder) -> str:
    sums = totals(folder.records())
    ok = sums["statuses"].get("ok", 0)
    return f"| `{name}` | {sums['rows']} | {ok} | {', '.join(_pictures(folder)) or 'none'} |"


def _openings(made: dict[str, ShardFolder], labels: pa.Table | None) -> list[str]:
    """Return how to open the last dataset with pictures, with its labels."""
    pictured = [name for name, one in made.items() if _pictures(one)]
    if not pictured:
        return []
    name = pictured[-1]
    joined = labels is not None and not own_label_columns(_schema(made[name]))
    lines = [
        "```python",
        f'faces = datasets.load_dataset("OUT", "{name.replace("/", "-")}", split="train")'
        "   # all ok rows",
        f"faces = duckdb.sql(\"from 'OUT/{name}/*.parquet' where status = 'ok'\")",
        f'faces = polars.read_parquet("OUT/{name}").filter(polars.col("status") == "ok")',
        f'faces = pandas.read_parquet("OUT/{name}").query("status == \'ok\'")',
    ]
    if joined:
        lines += [
            "",
            "# with labels; splits are a column of them",
            'labels = pandas.read_parquet("OUT/labels.parquet").rename(columns={"key": '
            '"parent_key"})',
            'faces = faces.merge(labels, on="parent_key", how="left")',
            f"duckdb.sql(\"from 'OUT/{name}/*.parquet' f join 'OUT/labels.parquet' l on "
            "l.key = f.parent_key where f.status = 'ok'\")",
        ]
    return [*lines, "```", ""]


def _counts(labels: pa.Table | None, column: str) -> dict[str, int]:
    """Return value → inputs, by value."""
    if labels is None or column not in labels.column_names:
        return {}
    counted = pc.value_counts(labels[column].combine_chunks()).to_pylist()
    found = {str(one["values"]): one["counts"] for one in counted if one["values"] is not None}
    return dict(sorted(found.items()))


def _cell(text: str) -> str:
    """Return a text for a cell of a table."""
    plain = "".join(f"\\{c}" if c in "\\`*_[]|" else c for c in " ".join(text.split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;")
