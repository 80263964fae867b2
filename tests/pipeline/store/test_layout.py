"""A dataset's folder opens with other tools as it is; folders of 0.1.0 are gone on with."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe
import pandas
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import normpipe
from normpipe.pipeline.care import withdraw as withdrawing
from normpipe.pipeline.care.clean import clean
from normpipe.pipeline.care.status import status
from normpipe.pipeline.care.traces import find_traces
from normpipe.pipeline.care.verify import verify
from normpipe.pipeline.care.withdraw import withdraw
from normpipe.pipeline.config import RunConfig
from normpipe.pipeline.errors import InputError
from normpipe.pipeline.run.progress import Progress
from normpipe.pipeline.run.runner import Options, Runner
from normpipe.pipeline.stage import Stage
from normpipe.pipeline.store.shards import ShardFolder, datasets_in
from normpipe.pipeline.store.storage import location
from normpipe.stages.normalize import NormalizeConfig
from normpipe.stages.pair import PairConfig

from .. import living
from ..layouts import as_of_old, beside, files
from ..living import NAMES
from ..stores import BUCKET, s3_server
from ..toys import ToyMap

duckdb = pytest.importorskip("duckdb")
polars = pytest.importorskip("polars")

DATASETS = ("joined", "made", "manifest", "normalized/second")
MORE = [*NAMES, "n41", "n42", "noface43"]
LAYOUTS = pytest.mark.parametrize("old", [False, True], ids=["new", "old"])


@pytest.fixture(autouse=True)
def _same_withdrawals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two folders hold the same bytes after a withdrawal: no salt is drawn, no day known."""
    monkeypatch.setattr(withdrawing, "new_salt", lambda: "00" * 16)
    monkeypatch.setattr(withdrawing, "today", lambda: "2000-01-01")


def run(root: Path, names: list[str] = NAMES, **options: Any) -> list[Stage]:
    stages = living.flow(root, names)
    wanted = Options(identity={"dataset": "toy", "input": "here"}, **options)
    Runner(root, stages, RunConfig(threads=1), wanted, Progress(bars=False)).run(stages)
    return stages


def processed(stages: list[Stage]) -> list[str]:
    return [name for stage in stages if isinstance(stage, ToyMap) for name in stage.processed]


# --- other tools


def _from_pandas(frame: Any, wanted: pa.Schema) -> pa.Table:
    assert list(frame.columns) == wanted.names
    return pa.Table.from_pandas(frame, schema=wanted, preserve_index=False)


def _hugging_face(folder: str, _: pa.Schema) -> pa.Table:
    import datasets

    cache = Path(folder).parents[2] / "cache"
    found = datasets.load_dataset(folder, split="train", cache_dir=str(cache))
    return found.with_format("arrow")[:]


#: How each opens a folder, as a table.
TOOLS: dict[str, Callable[[str, pa.Schema], pa.Table]] = {
    "pandas": lambda folder, wanted: _from_pandas(pandas.read_parquet(folder), wanted),
    "pyarrow": lambda folder, _: pq.read_table(folder),
    "pyarrow dataset": lambda folder, _: pyarrow.dataset.dataset(folder).to_table(),
    "polars": lambda folder, _: polars.read_parquet(folder).to_arrow(),
    "polars, lazily": lambda folder, _: polars.scan_parquet(folder).collect().to_arrow(),
    "duckdb": lambda folder, _: duckdb.sql(f"from read_parquet('{folder}')").to_arrow_table(),
    "duckdb, files": lambda folder, _: duckdb.sql(f"from '{folder}/*.parquet'").to_arrow_table(),
    "dask": lambda folder, wanted: _from_pandas(
        dask.dataframe.read_parquet(folder).compute(), wanted
    ),
    "hugging face": _hugging_face,
}


def shards(folder: ShardFolder) -> pa.Table:
    """Return the rows of all committed shards, sorted."""
    tables = [pq.ParquetFile(folder.shard(number)).read() for number in folder.records()]
    return pa.concat_tables(tables).sort_by("key")


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same job, again and again further on."""
    place = tmp_path_factory.mktemp("states")

    def after(name: str, before: str) -> Path:
        shutil.copytree(place / before, place / name)
        return place / name

    run(place / "run")
    run(after("extended", "run"), MORE, overwrite=True)
    living.make(place / "withdrawn")  # with what a killed run leaves
    withdraw(place / "withdrawn", ["anna"], [])
    clean(after("cleaned", "extended"), "toy-second")
    run(after("made again", "cleaned"), MORE)
    return {path.name: path for path in sorted(place.iterdir())}


@pytest.mark.parametrize("tool", TOOLS)
def test_other_tools_open_the_folder(
    states: dict[str, Path], tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for state, root in states.items():
        assert verify(root).differences == []
        for name, folder in datasets_in(root).items():
            if (state, name) == ("cleaned", "normalized/second"):
                assert not list(folder.path.iterdir())
                continue
            expected = shards(folder)
            found = TOOLS[tool](str(folder.path), expected.schema)
            assert found.column_names == expected.column_names, f"{state}: {name}"
            found = found.cast(expected.schema).sort_by("key")
            assert found.equals(expected), f"{state}: {name}"
            assert found.num_rows >= len(NAMES)
    assert (made := shards(ShardFolder(states["run"] / "made")))["image"].null_count < len(made)


def test_a_job_has_nothing_but_shards_in_its_datasets(states: dict[str, Path]) -> None:
    for root in states.values():
        assert list(datasets_in(root)) == list(DATASETS)
        for folder in datasets_in(root).values():
            found = {path.name for path in folder.path.iterdir()}
            assert found == {folder.shard(number).name for number in folder.records()}
        assert beside(root) == ["_joined", "_made", "_manifest", "_second"]
    root = states["run"]
    assert sorted(path.name for path in (root / "_made").iterdir()) == [
        "README.md", "index.parquet", "manifest.json", "records", "stage.json",
    ]  # fmt: skip
    assert (states["cleaned"] / "normalized/_second/cleaned.json").is_file()
    assert not (states["made again"] / "normalized/_second/cleaned.json").exists()
    assert files(states["made again"]) == files(states["extended"])


# --- where it is found


def test_a_folder_of_shards_alone_still_opens(
    states: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = normpipe.open_dataset(states["run"] / "made", status="all", labels=None)
    copied = tmp_path / "elsewhere"
    shutil.copytree(states["run"] / "made", copied)
    assert normpipe.open_dataset(copied, status="all").keys == whole.keys
    (tmp_path / "link").symlink_to(states["run"] / "made")
    linked = ShardFolder(tmp_path / "link")
    assert linked.metadata_folder == states["run"].resolve() / "_made"
    assert normpipe.open_dataset(linked.path, status="all").table.equals(whole.table)
    monkeypatch.chdir(states["run"] / "made")
    for here in (".", "../made", "../joined/../made"):
        assert ShardFolder(Path(here)).records() == ShardFolder(states["run"] / "made").records()
        assert normpipe.open_dataset(here, status="all").table.equals(whole.table)


def test_a_link_in_the_job_s_folder_keeps_what_is_said_of_it_there(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/made").symlink_to(tmp_path / "large")
    assert ShardFolder(tmp_path / "out/made").metadata_folder == tmp_path / "out/_made"
    assert ShardFolder(Path("/")).metadata_folder == Path("/")


def test_what_is_said_of_a_dataset_is_none_itself(states: dict[str, Path]) -> None:
    root = states["run"]
    with pytest.raises(
        InputError, match=r"_made contains only the metadata of .*/made: open .*/made"
    ):
        normpipe.open_dataset(root / "_made")
    with pytest.raises(InputError, match="holds no dataset"):
        normpipe.open_dataset(root / "_made/records")
    assert normpipe.open_dataset(root, status="all").keys  # its only variant
    for name in ("_mine", ".mine"):
        with pytest.raises(ValueError, match="plain folder name"):
            NormalizeConfig(variant=name)
        with pytest.raises(ValueError, match="plain folder name"):
            NormalizeConfig(network="", weights=f"models/{name}.safetensors")
    with pytest.raises(ValueError, match="not a variant name"):
        PairConfig(variants=("_mine",))


def test_what_lies_in_hidden_folders_is_no_dataset(tmp_path: Path) -> None:
    for name in (".work/a/_made", ".work/made", "b/_two", "b/one", "a/_", "_three", "three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "stage.json").write_text("{}")
    assert list(datasets_in(tmp_path)) == ["b/one", "b/two", "three"]


@LAYOUTS
def test_verify_tells_what_does_not_belong_there(tmp_path: Path, old: bool) -> None:
    root = tmp_path / "out"
    run(root)
    if old:
        as_of_old(root)
    made = ShardFolder(root / "made")
    foreign = ["notes.csv", ".DS_Store", "_index.parquet", "shard-0.parquet"]
    for name in foreign[:3]:
        (made.path / name).write_bytes(b"x")
    shutil.copy(made.shard(0), made.path / foreign[3])
    (made.path / "more").mkdir()
    told = [f"made: {name} is not a shard: " for name in sorted([*foreign, "more"])]
    found = verify(root).differences
    assert [line.partition("other")[0] for line in found] == ([] if old else told)
    for name in foreign:
        (made.path / name).unlink()
    (made.path / "more").rmdir()
    # What was told of old is told of both.
    where = "" if old else "_made/"
    (made.path / "shard-00000.parquet.tmp").touch()
    (made.metadata_folder / "index.parquet.tmp").touch()
    (made.records_path / "shard-00009.json").write_text("{}")
    assert verify(root).differences == [
        f"made: {where}records/shard-00009.json has no shard",
        *sorted([
            f"made: {where}index.parquet.tmp is left over from a run that was stopped",
            "made: shard-00000.parquet.tmp is left over from a run that was stopped",
        ]),
    ]  # fmt: skip


# --- folders of 0.1.0


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The same job in the new layout and in the old one."""
    new = tmp_path / "new"
    run(new)
    shutil.copytree(new, tmp_path / "old")
    return new, as_of_old(tmp_path / "old")


def check(new: Path, old: Path) -> None:
    """Check that both hold the same, and each in its own places."""
    assert files(new) == files(old)
    assert not beside(old) and len(beside(new)) == len(DATASETS)
    for root in (new, old):
        assert verify(root).differences == []
        assert list(datasets_in(root)) == list(DATASETS)
    ours, theirs = ({**status(root), "output": ""} for root in (new, old))
    assert ours == theirs
    for name in DATASETS[:2]:
        one, other = (normpipe.open_dataset(root / name, status="all") for root in (new, old))
        assert one.table.equals(other.table)


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in root.rglob("shard-*")}
    return {str(path): (one.st_ino, one.st_mtime_ns) for path, one in found.items()}


def test_nothing_of_a_folder_of_old_is_made_again(pair: tuple[Path, Path]) -> None:
    check(*pair)
    before = stamps(pair[1])
    assert processed(run(pair[1])) == []
    assert stamps(pair[1]) == before
    check(*pair)


def test_a_folder_of_old_is_extended_mended_and_redone(pair: tuple[Path, Path]) -> None:
    before = stamps(pair[1])
    told = [processed(run(root, MORE, overwrite=True)) for root in pair]
    assert told[0] == told[1] and set(told[0]) == {"n41", "n42", "noface43"}
    kept = {path: stamp for path, stamp in stamps(pair[1]).items() if "/joined/" not in path}
    assert all(kept[path] == before[path] for path in before if path in kept)
    check(*pair)
    for root in pair:
        made, second = ShardFolder(root / "made"), ShardFolder(root / "normalized/second")
        made.shard(0).unlink()
        made.record_path(1).write_text("{")
        made.index_path.unlink()
        second.record_path(2).unlink()
        (made.path / "shard-00007.parquet.tmp").write_bytes(b"half")
        run(root, MORE)
    check(*pair)
    for root in pair:
        run(root, MORE, retry_failed=True)
    check(*pair)


def test_people_are_withdrawn_from_a_folder_of_old(pair: tuple[Path, Path]) -> None:
    for root in pair:
        (intent,) = withdraw(root, ["anna"], [])
        assert set(intent.derived) == set(DATASETS) and not intent.remains
    check(*pair)
    for root in pair:
        run(root)
        assert not find_traces(root, list(DATASETS), {"toy/n5"})[0]
    check(*pair)


def test_a_dataset_of_old_is_cleaned_and_made_again(pair: tuple[Path, Path]) -> None:
    good = files(pair[1])
    for root in pair:
        clean(root, "toy-second")
        assert ShardFolder(root / "normalized/second").cleaned_path.is_file()
    assert (pair[1] / "normalized/second/cleaned.json").is_file()
    check(*pair)
    for root in pair:
        run(root)
    check(*pair)
    assert files(pair[1]) == good


def test_a_job_of_old_makes_its_further_datasets_in_the_new_layout(tmp_path: Path) -> None:
    whole, root = tmp_path / "whole", tmp_path / "out"
    run(whole)
    living.run(root, until=2)
    as_of_old(root)
    run(root)
    assert beside(root) == ["_joined", "_second"]
    assert files(root) == files(whole)
    assert verify(root).differences == []


# --- in a store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3")) as needed:
        for name, value in needed.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/layout"


@pytest.mark.slow
@LAYOUTS
def test_a_store_has_the_same_layout_and_keeps_an_old_one(
    store: str, tmp_path: Path, old: bool
) -> None:
    address = f"{store}/{old}"
    few = NAMES[:12]
    run(tmp_path / "local", few)
    if old:
        as_of_old(tmp_path / "local")
    root: Any = location(f"{address}/out")
    root.fs.put(f"{tmp_path / 'local'}/", root.path, recursive=True)
    before = files(root)
    assert verify(root).differences == []
    assert processed(run(root, few)) == [] and files(root) == before
    assert (ShardFolder(root / "made").metadata_folder == root / "made") == old
    opened = normpipe.open_dataset(f"{address}/out/made", status="all")
    assert opened.table.equals(normpipe.open_dataset(tmp_path / "local/made", status="all").table)
    for where in (root, tmp_path / "local"):
        run(where, [*few, "n41"], overwrite=True)
        clean(where, "toy-second")
        run(where, [*few, "n41"])
        withdraw(where, ["anna"], [])
    assert files(root) == files(tmp_path / "local")
    assert verify(root).differences == []
    below = {name.removeprefix(f"{root.path}/") for name in root.fs.find(root.path)}
    assert any(name.startswith("_made/records/") for name in below) != old
    assert any(name.startswith("made/records/") for name in below) == old
    if not old:
        for name, folder in datasets_in(root).items():
            expected = shards(ShardFolder(tmp_path / "local" / name))
            for tool in ("pandas", "dask"):
                found = TOOLS[tool](str(folder.path), expected.schema)
                assert found.cast(expected.schema).sort_by("key").equals(expected)
        put = root / "made" / "notes" / "a.txt"
        put.write_bytes(b"x")
        (line,) = verify(root).differences
        assert line.startswith("made: notes is not a shard")
