"""models: lists known weights and packs, and downloads packs on request.

A download is locked (two processes give one good pack), resumes after an interruption, is verified
if a digest is given, and its folder appears complete or not at all.
"""

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ...pipeline.errors import InputError, nearest
from ...pipeline.stage import sha256_file
from ...pipeline.store.commit import fsync_folder, storage_errors, write_json
from ..faces.packs import PACKS, RECORD, TERMS, pack_files
from .downloads import fetch
from .model_files import SHIPPED, recorded_digest, shipped_licence

#: File in the folder of packs: which terms were accepted.
ACCEPTED = "normpipe-licences.json"


@dataclass(frozen=True)
class Model:
    """A line of the list: a file, or a known pack that is not installed (no file, no digest)."""

    kind: str
    name: str
    file: str
    sha256: str
    state: str
    licence: str

    def line(self) -> str:
        """Return the model as one line of plain text."""
        what = f"{self.kind:<8} {self.name:<11} {self.file or '-':<28} {self.state:<19}"
        return f"{what} {self.licence}" + (f"\n{'':<8} sha256 {self.sha256}" if self.sha256 else "")


def known_models(folder: Path) -> list[Model]:
    """Return shipped weights, the packs in ``folder``, and those that could be downloaded."""
    models: list[Model] = []
    for path in sorted(SHIPPED.glob("*.safetensors")):
        digest = sha256_file(path)
        same = digest == recorded_digest(path.with_suffix(".json"))
        state = "as recorded" if same else "not as recorded"
        licence = shipped_licence(path.stem)
        models.append(Model("weights", path.stem, path.name, digest, state, licence))
    here = pack_files(folder)
    for file in here:
        licence = PACKS[file.pack].licence if file.pack in PACKS else "see where it came from"
        models.append(Model("pack", file.pack, file.name, file.sha256, file.state, licence))
    for name, pack in PACKS.items():
        if pack.released and name not in {file.pack for file in here}:
            models.append(Model("pack", name, "", "", "not here", pack.licence))
    return models


def get_pack(name: str, folder: Path, accept: bool, url: str = "", sha256: str = "") -> Path:
    """Download a pack into ``folder``, unless it is there; return its folder.

    Args:
        name: a pack of insightface's model zoo.
        folder: where insightface looks for packs.
        accept: whether the user accepts the pack's terms; needed once.
        url: another address of the pack's .zip; empty: insightface's own.
        sha256: expected digest of the .zip; empty: not known.

    Raises:
        InputError: an unknown name, terms not accepted, a failed download, or another digest.
    """
    released = [known for known, pack in PACKS.items() if pack.released]
    if name not in released:
        raise InputError(f"no pack '{name}' can be downloaded{nearest(name, released)}")
    target = folder / name
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            if target.is_dir():
                _refuse_other_archive(target, sha256)
                return target
            _accept(folder, name, accept)
            archive = folder / f"{name}.zip"
            address = url or _address(archive.name)
            digest = fetch(address, archive, sha256)
            _unpack(archive, target, {"url": address, "archive_sha256": digest})
    return target


def _refuse_other_archive(target: Path, sha256: str) -> None:
    """Raise InputError if an installed pack came from another .zip than the expected one."""
    if not sha256:
        return
    try:
        recorded = json.loads((target / RECORD).read_bytes())["archive_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        recorded = "not recorded"
    if recorded != sha256:
        raise InputError(
            f"{target} is there already, from a .zip whose sha256 is {recorded}: remove it first"
        )


def _address(file: str) -> str:
    from insightface.utils.storage import model_zoo_download_url

    return str(model_zoo_download_url(file))


def _accept(folder: Path, name: str, accept: bool) -> None:
    """Record that a pack's terms are accepted, or refuse the download."""
    path, terms = folder / ACCEPTED, PACKS[name].licence
    try:
        accepted: list[str] = json.loads(path.read_bytes())["accepted"]
    except (OSError, ValueError, KeyError, TypeError):
        accepted = []
    if terms in accepted:
        return
    if not accept:
        raise InputError(
            f"insightface's packs are for {TERMS} (its terms: "
            "https://github.com/deepinsight/insightface#license): read them, and add "
            "--accept-licence if you accept them; this is needed once"
        )
    write_json(path, {"accepted": sorted({*accepted, terms})})


def _is_intact(archive: Path) -> bool:
    """Return whether a .zip can be read and all its checksums match."""
    try:
        with zipfile.ZipFile(archive) as content:
            return content.testzip() is None
    except Exception:  # broken archives fail in many ways: bad headers, offsets, streams
        return False


def _unpack(archive: Path, target: Path, record: dict[str, str]) -> None:
    """Unpack a pack's .zip to a temporary folder, record its content, and rename the folder."""
    place = target.with_name(f".{target.name}.unpacked")
    shutil.rmtree(place, ignore_errors=True)
    if not _is_intact(archive):
        archive.unlink()
        raise InputError(f"{record['url']} gave no whole .zip: removed; run the same command again")
    with zipfile.ZipFile(archive) as content:
        content.extractall(place)
    # Some archives hold the files themselves, others a folder with them.
    networks = sorted(place.glob("*.onnx")) or sorted(place.glob("*/*.onnx"))
    if not networks:
        archive.unlink()
        shutil.rmtree(place)
        raise InputError(f"{record['url']} holds no network (*.onnx): removed; give another --url")
    pack = networks[0].parent
    for path in networks:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    files = {path.name: sha256_file(path) for path in networks}
    write_json(pack / RECORD, {**record, "files": files})
    pack.rename(target)
    fsync_folder(target.parent)
    shutil.rmtree(place, ignore_errors=True)
    archive.unlink()
