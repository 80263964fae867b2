"""Write the sources of a synthesized dataset as image files with a list, like other datasets.

    python examples/renders_as_list.py BENCH PHOTOGRAPHS
    normpipe run --input PHOTOGRAPHS/faces.csv --output OUT

docs/synthetic.md defines when an action unit occurs. Landmarks are exact.
"""

import csv
import json
import sys
from pathlib import Path

import normpipe


def main(renders: Path, output: Path) -> None:
    columns = ["image", "split", "identity", "action_units", "action_unit_occurrence", "landmarks"]
    rows = normpipe.open_dataset(renders / "pairs", columns=columns, decode=False)
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    with (output / "faces.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = None
        for start in range(0, len(rows), 100):
            for row in rows.__getitems__(list(range(start, min(start + 100, len(rows))))):
                if writer is None:
                    units = list(row["action_units"])
                    names = [*units, *(f"{unit}_intensity" for unit in units)]
                    writer = csv.writer(stream)
                    writer.writerow(["path", "subject", "split", "landmarks", *names])
                path = f"pictures/{row['key'].replace('/', '-')}.jpg"
                (output / path).write_bytes(row["image"])
                five = json.dumps([[round(x, 2) for x in point] for point in row["landmarks"]])
                levels = [round(level, 3) for level in row["action_units"].values()]
                occurs = [int(yes) for yes in row["action_unit_occurrence"].values()]
                about = [path, f"person{row['identity']}", row["split"], five]
                writer.writerow([*about, *occurs, *levels])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
