"""Commands of the real job to disturb: real detector, real network, a few photographs."""

import json
import shutil
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import cv2
import torch

from normpipe.pipeline.commands import app as cli
from normpipe.stages.networks import compact as _compact  # noqa: F401 - imported before the fork

from .disturbing import Scenario, must
from .living import digests
from .toy_scenarios import finish_withdrawal, withdraw

SAMPLES = Path(str(files("normpipe.stages") / "samples"))
#: Three shards of two, among them a photograph without a face and a broken file.
FIRST = ("person01_neutral", "person01_happiness", "no_face", "truncated", "person02_anger")
ADDED = (*FIRST, "person02_sadness", "person03_fear", "person04_happiness")
SETTINGS = (
    *("ingest.shard_rows=2", "ingest.au_columns=intensity", "normalize.batch_size=2"),
    *("run.threads=2", "run.grace_seconds=0"),
)
#: Pairs with their pictures and labels inside: every kind of file is written.
WHOLE = "pair.materialize=true"
TRAINING = (
    *("classify.least_steps=6", "classify.epochs=1", "classify.batch_size=8"),
    *("classify.workers=0", "classify.device=cpu"),
)


class Photographs:
    """A list with labels and its photographs, some of the package's samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list = folder / "list.csv"
        folder.mkdir(parents=True)

    def lay(self, names: Sequence[str], emotion: str = "") -> None:
        """Copy samples that are not there yet; ``emotion``: what is now said of neutral faces."""
        for name in names:
            if not (self.folder / f"{name}.jpg").exists():
                shutil.copyfile(SAMPLES / f"{name}.jpg", self.folder / f"{name}.jpg")
        head, *lines = (SAMPLES / "labels.csv").read_text().splitlines()
        lines = [line for line in lines if line.partition(".")[0] in names]
        if emotion:
            lines = [line.replace(",neutral,", f",{emotion},") for line in lines]
        self.list.write_text("\n".join([head, *lines]) + "\n")

    def mend(self) -> None:
        """Replace the broken file by a whole one."""
        shutil.copyfile(SAMPLES / "person03_neutral.jpg", self.folder / "truncated.jpg")


def run(photographs: Photographs, *options: str) -> Callable[[Path], None]:
    """Return the command line as a function of its output folder."""

    def command(root: Path) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        given = ["--input", str(photographs.list), "--output", str(root), "--quiet"]
        cli.app(["run", *given, *options], prog_name="normpipe", standalone_mode=True)

    return command


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def without_times(root: Path) -> dict[str, str]:
    """Return path → digest without what says how long training took."""
    found = {
        name: digest
        for name, digest in digests(root).items()
        if not name.startswith("classify/") or not {"tensorboard", "log.csv"} & {*name.split("/")}
    }
    card = root / "classify/classifier.json"
    if card.exists():
        said = json.loads(card.read_bytes())
        said.pop("cpu_seconds")
        found["classify/classifier.json"] = json.dumps(said)
    return found


def scenario(name: str, place: Path, extra: list[str], workers: int = 1) -> Scenario:
    """Lay the folder that a scenario starts from, and return it."""
    photographs = Photographs(place / "photographs")
    photographs.lay(FIRST)
    base = place / "base"
    plain = [*settings(*SETTINGS), "--until", "pair", *extra]
    whole = [*settings(*SETTINGS, WHOLE), "--until", "pair", *extra]
    if name == "first run":
        return Scenario(name, run(photographs, *whole), workers=workers)
    if name == "to evaluate":
        photographs.lay([path.stem for path in sorted(SAMPLES.glob("*.jpg"))])
        command = run(
            photographs, *settings(*SETTINGS[1:], "ingest.shard_rows=8", *TRAINING), *extra
        )
        return Scenario(name, command, workers=workers, digests=without_times)
    before = plain if name == "new photographs" else whole
    must(lambda: run(photographs, *before)(base), place / "log.txt")
    if name == "new photographs":
        photographs.lay(ADDED)
        return Scenario(name, run(photographs, *plain), base, workers=workers)
    if name == "run --retry-failed":
        photographs.mend()
        return Scenario(name, run(photographs, *whole, "--retry-failed"), base, workers=workers)
    if name == "run --overwrite":
        photographs.mend()
        photographs.lay(FIRST, emotion="surprise")
        other = settings("ingest.shard_rows=3", "align.size_px=160")
        command = run(photographs, *whole, *other, "--overwrite")
        return Scenario(name, command, base, workers=workers)
    assert name == "withdraw"
    again = run(photographs, *whole)
    out = withdraw("person01")
    return Scenario(name, out, base, finish_withdrawal(out, again))
