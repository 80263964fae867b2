"""Rows that are left out, and taken in again: what readers see, and that no shard changes."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from normpipe.pipeline.care.clean import clean
from normpipe.pipeline.care.exclude import (
    ListedKeys,
    exclude,
    exclusion_lines,
    include,
    read_key_list,
)
from normpipe.pipeline.care.status import status, status_table
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.care.withdraw import withdraw
from normpipe.pipeline.errors import InputError, OutputError
from normpipe.pipeline.read.dataset import open_dataset
from normpipe.pipeline.read.exclusions import read_exclusions
from normpipe.pipeline.store.lock import locked

from ..living import NAMES, digests, run
from ..stores import s3_server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job") / "out"
    run(root)
    return root


@pytest.fixture
def job(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def listed(*keys: str, name: str = "list.csv") -> ListedKeys:
    return ListedKeys(name, dict.fromkeys(keys, ""))


def shards(root: Path) -> dict[str, str]:
    return {n: d for n, d in digests(root).items() if "/shard-" in n and n.endswith(".parquet")}


def test_excluded_rows_stay_and_are_read_as_such(job: Path) -> None:
    before, whole = shards(job), len(open_dataset(job / "made"))
    done = exclude(job, listed("toy/n6", "toy/twins35#face1"), "blurred")
    assert (done.changed, done.same, done.unknown, done.excluded) == (2, 0, (), 2)
    assert shards(job) == before and verify(job).differences == []
    made = open_dataset(job / "made")
    assert len(made) == whole - 2 and "toy/twins35#face0" in made.keys
    gone = open_dataset(job / "made", status="excluded")
    assert gone.keys == ["toy/n6", "toy/twins35#face1"]
    row = open_dataset(job / "made", status=None, decode=False)["toy/n6"]
    assert (row["status"], row["reason"], row["decided_by"]) == ("excluded", "blurred", "exclude")
    assert row["image"] == b"toy/n6=36"
    # Alone, a dataset of the job knows it, too.
    assert "toy/n6" not in open_dataset(job / "normalized/second").keys
    state = status(job)
    assert state["excluded"] == {"keys": 2, "reasons": {"blurred": 2}}
    assert "excluded: 2 keys: blurred 2" in status_table(state)
    assert include(job).changed == 2
    assert len(open_dataset(job / "made")) == whole and not (job / "excluded.parquet").exists()
    assert verify(job).differences == [] and digests(job) == {**digests(job), **before}


def test_an_input_s_key_leaves_out_all_its_faces_but_not_what_is_no_face(job: Path) -> None:
    exclude(job, listed("toy/twins35", "toy/noface1"))
    rows = open_dataset(job / "made", status="all", decode=False)
    assert [rows[f"toy/twins35#face{n}"]["status"] for n in (0, 1)] == ["excluded"] * 2
    assert rows["toy/noface1"]["status"] == "rejected"
    assert rows["toy/noface1"]["reason"] == "no_face"


def test_a_condition_excludes_and_takes_in_again(job: Path) -> None:
    done = exclude(job / "made", "number < 26 and subject == 'anna'")
    assert (done.changed, done.excluded) == (2, 2)
    first, *lines = exclusion_lines(job)
    assert first == "key,reason,excluded_on"
    assert [line[: line.index(",20")] for line in lines] == [
        "toy/n0,number < 26 and subject == 'anna'",
        "toy/n5,number < 26 and subject == 'anna'",
    ]
    # On the columns of one dataset; a reason is said anew only if it is given.
    assert exclude(job / "made", "number == 36", reason="six").changed == 1
    done = exclude(job, listed("toy/n5", "toy/n6", "toy/n7"))
    assert (done.changed, done.same) == (1, 2)
    reasons = {row["key"]: row["reason"] for row in read_exclusions(job).to_pylist()}
    assert reasons["toy/n6"] == "six" and reasons["toy/n7"] == "listed in list.csv"
    assert include(job / "made", "reason == 'six' or number == 49").changed == 2
    assert read_exclusions(job)["key"].to_pylist() == ["toy/n0", "toy/n5"]
    with pytest.raises(InputError, match="did you mean 'number'"):
        exclude(job, "numbr < 3")


def test_lists_are_read_as_people_write_them(tmp_path: Path) -> None:
    def read(text: str, encoding: str = "utf-8") -> dict[str, str]:
        (tmp_path / "list.csv").write_bytes(text.encode(encoding))
        return read_key_list(tmp_path / "list.csv").reasons

    assert read("toy/n1\ntoy/n2\r\n\n") == {"toy/n1": "", "toy/n2": ""}
    assert read("key\ntoy/n1\n") == {"toy/n1": ""}
    assert read('score,key\n1,"toy/a,b"\n', "utf-8-sig") == {"toy/a,b": ""}
    assert read("key,reason\ntoy/n1,blurred\n") == {"toy/n1": "blurred"}
    assert read("toy/a,b\ntoy/c\n") == {"toy/a,b": "", "toy/c": ""}
    with pytest.raises(InputError, match="names no key"):
        read("\n")
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the list"):
        read_key_list(tmp_path / "list.csv")


def test_unknown_keys_are_named_and_nothing_changes(job: Path) -> None:
    before = digests(job)
    with pytest.raises(InputError) as caught:
        exclude(job, listed("n6.JPG", "toy/n7", "what"))
    assert "2 of the 3 keys in list.csv are not in the job: n6.JPG (did you mean toy/" in str(
        caught.value
    )
    assert "--allow-unknown" in str(caught.value) and digests(job) == before
    done = exclude(job, listed("toy/n7", "what"), allow_unknown=True)
    assert (done.changed, done.unknown) == (1, ("what",))
    with pytest.raises(InputError, match=r"1 of the 1 keys in list.csv is not excluded: toy/n6"):
        include(job, listed("toy/n6"))
    assert include(job, listed("toy/n6", "toy/n7"), allow_unknown=True).excluded == 0


def test_they_stay_out_through_runs_and_cleaning_and_a_withdrawn_one_goes(job: Path) -> None:
    exclude(job, listed("toy/n5", "toy/n6"), "asked by anna")
    run(job)
    assert verify(job).differences == []
    clean(job, "normalized/second")
    run(job)
    assert "toy/n6" not in open_dataset(job / "normalized/second").keys
    withdraw(job, ["anna"], [])
    assert read_exclusions(job)["key"].to_pylist() == ["toy/n6"]
    assert verify(job).differences == []
    assert b"toy/n5" not in (job / "excluded.parquet").read_bytes()


def test_a_lost_or_damaged_file_is_noticed(job: Path) -> None:
    exclude(job, listed("toy/n6"))
    path = job / "excluded.parquet"
    data = path.read_bytes()
    path.unlink()
    (line,) = verify(job).differences
    assert "excluded.parquet is gone, so its rows are back" in line
    for broken in (data[:-9], data.replace(b"toy/n6", b"toy/n7")):
        path.write_bytes(broken)
        for act in (verify, open_made, status, lambda root: exclude(root, listed("toy/n7"))):
            if act is verify:
                assert any("excluded.parquet is damaged" in one for one in verify(job).differences)
            else:
                with pytest.raises(InputError, match=r"excluded.parquet is damaged"):
                    act(job)
    path.write_bytes(data)
    assert verify(job).differences == []
    # Of another day: whole, but not what was recorded.
    (job / "excluded.parquet").rename(job / "kept")
    exclude(job, listed("toy/n7"))
    other = path.read_bytes()
    include(job)
    (job / "kept").rename(path)
    exclude(job, listed("toy/n8"))
    path.write_bytes(other)
    assert any("has other rows than were recorded" in one for one in verify(job).differences)
    run(job)
    assert verify(job).differences == []


def open_made(root: Path) -> None:
    open_dataset(root / "made")


def test_a_dataset_that_left_its_job_says_what_it_does_not_know(
    job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exclude(job, listed("toy/n6"))
    for name in ("second", "_second"):
        shutil.copytree(job / "normalized" / name, tmp_path / "alone" / name)
    assert "toy/n6" in open_dataset(tmp_path / "alone/second").keys
    assert "rows were excluded from the job that it was copied from" in caplog.text


def test_only_the_holder_of_a_job_changes_it_and_reasons_are_lines(job: Path) -> None:
    with locked(job), pytest.raises(OutputError, match="another normpipe is running"):
        exclude(job, listed("toy/n6"))
    with pytest.raises(InputError, match="one line of at most 200"):
        exclude(job, listed("toy/n6"), reason="a\nb")
    with pytest.raises(InputError, match="holds no normpipe job"):
        exclude(job.parent, listed("toy/n6"))


def test_in_a_store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        from normpipe.pipeline.store.storage import location

        root = location("s3://faces/out")
        for path in made.rglob("*"):
            name = path.relative_to(made).as_posix()
            of_job = "manifest/" in name or "made/" in name or path.parent == made
            if path.is_file() and of_job and path.name != ".normpipe.lock":
                (root / name).write_bytes(path.read_bytes())
        exclude(root, listed("toy/n6"), "blurred")
        assert "toy/n6" not in open_dataset(root / "made").keys
        assert verify(root).differences == []
        assert include(root).changed == 1 and "toy/n6" in open_dataset(root / "made").keys


def test_many_keys_are_no_trouble(job: Path) -> None:
    keys = [f"toy/{name}" for name in NAMES]
    assert exclude(job, listed(*keys)).changed == len(NAMES)
    assert len(open_dataset(job / "made")) == 0
    assert pa.compute.count(read_exclusions(job)["key"]).as_py() == len(NAMES)
