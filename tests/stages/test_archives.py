"""Archives as inputs: members are rows, nothing is extracted, nothing is believed."""

import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from normpipe.manifests.vocabularies import SampleError
from normpipe.pipeline.errors import InputError
from normpipe.stages.ingest import Ingest, IngestConfig
from normpipe.stages.sources.containers import archives
from normpipe.stages.sources.containers.archives import Archive
from normpipe.stages.sources.fetching import SourceReader

PICTURE = b"\xff\xd8\xff not really a picture" * 9


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 5, 17, 1, 2, 4)), data, method)
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_600_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def of_kind(path: Path, members: dict[str, bytes]) -> Path:
    return zip_of(path, members) if path.suffix == ".zip" else tar_of(path, members)


def scan(path: Path, **settings: object) -> dict[str, dict[str, object]]:
    table = Ingest(IngestConfig(**settings), path, "set").scan().rows  # type: ignore[arg-type]
    return {row["key"]: row for row in table.to_pylist()}


def reasons(path: Path) -> dict[str, object]:
    return {key.removeprefix("set/"): row["reason"] for key, row in scan(path).items()}


def why(archive: Archive, name: str, limit: int = 10_000) -> str:
    with pytest.raises(SampleError) as caught:
        archive.read(name, limit)
    return caught.value.reason


@pytest.fixture(params=[".zip", ".tar"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"photos{request.param}"


def test_members_are_rows_in_natural_order_and_are_read_in_place(path: Path) -> None:
    of_kind(path, {f"./anna/{n}.jpg": PICTURE + bytes([n]) for n in (10, 9)} | {"notes.txt": b"x"})
    rows = scan(path)
    assert list(rows) == ["set/anna/9.jpg", "set/anna/10.jpg"]
    row = rows["set/anna/10.jpg"]
    assert row["size_bytes"] == len(PICTURE) + 1 and row["status"] == "ok"
    reader = SourceReader(path, 10_000, 1.0, allow_urls=False)
    reader.open()
    assert reader.read(row) == PICTURE + b"\n"
    with pytest.raises(SampleError, match="10"):
        reader.read({**row, "modified_ns": 5})
    reader.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert list(scan(path, limit=1)) == ["set/anna/9.jpg"]


def test_names_that_climb_out_are_named_and_not_followed(path: Path) -> None:
    names = ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..\\out.jpg", "C:/out.jpg"]
    of_kind(path, dict.fromkeys([*names, "in.jpg"], PICTURE))
    (path.parent / "out.jpg").write_bytes(b"secret")
    found = reasons(path)
    assert found.pop("in.jpg") is None
    assert len(found) == len(names) and set(found.values()) == {"outside_root"}
    archive = Archive(path)
    assert {why(archive, name) for name in names} == {"outside_root"}


def test_empty_large_and_repeated_members(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the name that comes twice
        if path.suffix == ".zip":
            zip_of(path, {"empty.jpg": b"", "a.jpg": PICTURE})
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr("./a.jpg", b"another")
        else:
            tar_of(path, {"empty.jpg": b"", "a.jpg": PICTURE, "./a.jpg": b"another"})
    assert reasons(path) == {"a.jpg": "repeated_member", "empty.jpg": "empty_file"}
    of_kind(path, {"b.jpg": PICTURE})
    assert why(Archive(path), "b.jpg", len(PICTURE) - 1) == "too_many_bytes"
    assert why(Archive(path), "c.jpg") == "missing_file"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    tar_of(path, {"ok.jpg": PICTURE})
    data = path.read_bytes().replace(b"ok.jpg", b"\xff\xfe.jpg")
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + data[512:])
    (row,) = scan(path).values()
    assert row["reason"] == "path_not_utf8" and row["key"] == "set/%FF%FE.jpg"


def test_links_devices_and_holes_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE),
            ("device.jpg", tarfile.CHRTYPE), ("pipe.jpg", tarfile.FIFOTYPE),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert set(reasons(path).values()) == {"not_a_file"}
    assert "folder.jpg" not in reasons(path)


def test_links_and_secrets_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
        archive.writestr("rare.jpg", PICTURE, zipfile.ZIP_LZMA)
        archive.writestr("locked.jpg", PICTURE)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        name = data.rfind(b"locked.jpg") if signature == b"PK\1\2" else data.find(b"locked.jpg")
        data[data.rfind(signature, 0, name) + offset] |= 1
    path.write_bytes(data)
    assert reasons(path) == {
        "link.jpg": "not_a_file",
        "locked.jpg": "unsupported_member",
        "rare.jpg": "unsupported_member",
    }


def test_a_bomb_is_told_by_its_header_and_a_lie_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    zip_of(path, {"bomb.jpg": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 250_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))
        assert why(Archive(path), "bomb.jpg", 64 * 2**20) == "too_many_bytes"
    data = path.read_bytes()  # and now the header says that it is small
    path.write_bytes(data.replace(struct.pack("<I", 200 * 2**20), struct.pack("<I", 1000)))
    assert why(Archive(path), "bomb.jpg", 64 * 2**20) == "truncated"


def test_damage_within_a_member_is_the_member_s(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "photos.zip", {"a.jpg": PICTURE, "b.jpg": PICTURE})
    data = bytearray(path.read_bytes())
    data[data.find(PICTURE) + 7] ^= 1
    path.write_bytes(data)
    archive = Archive(path)
    assert why(archive, "a.jpg") == "truncated"
    assert archive.read("b.jpg", 10_000) == PICTURE


def test_a_tar_whose_headers_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos.tar"
    tar_of(path, {"n" * 200 + ".jpg": PICTURE})  # a long name: an extended header
    monkeypatch.setattr(archives, "_LONGEST_HEADER", 100)
    with pytest.raises(InputError, match="a header of"):
        Archive(path)


def test_a_tar_that_ends_early_gives_what_it_has(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "photos.tar", {"a.jpg": PICTURE, "b.jpg": PICTURE * 9})
    os.truncate(path, 512 + 512 + 512 + 100)
    found = Archive(path)
    assert found.read("a.jpg", 10_000) == PICTURE
    assert why(found, "b.jpg") == "truncated"


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar"])
def test_what_is_no_archive_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive at all" * 99)
    with pytest.raises(InputError, match=r"cannot be read as an archive .*repack it"):
        scan(tmp_path / name)
    zip_of(tmp_path / "notes.zip", {"notes.txt": b"x"})
    with pytest.raises(InputError, match="no images in"):
        scan(tmp_path / "notes.zip")


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "photos.tar.xz", "photos.7z"])
def test_what_is_read_from_front_to_back_only_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"front to back: unpack it .*or repack it"):
        scan(tmp_path / name)


def test_a_zip_whose_member_has_no_name_or_no_place(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "photos.zip", {"a.jpg": PICTURE, "b.jpg": PICTURE})
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\1\2")
    data[place + 42 : place + 46] = b"\xff\xff\xff\x7f"  # where the member begins
    path.write_bytes(data)
    try:
        told = why(Archive(path), "a.jpg")
    except InputError:
        told = "truncated"
    assert told == "truncated"
    data[place + 28 : place + 30] = b"\0\0"  # the length of its name
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as an archive"):
        scan(path)
