"""Check everything that runs on a GPU, in under ten minutes, on a bare machine. One command:

    make gpu-check                                # or: python3 benchmarks/gpu_check.py
    python3 benchmarks/gpu_check.py --pack PACK --facekit FACEKIT.npz    # all of it

It makes no virtual environment: it runs under the Python, torch and packages that it finds, and
first prints which are missing, with the line that downloads their wheels elsewhere. It makes its
own inputs. Each check is a process of its own, so that a broken CUDA context ends one check alone.
What cannot run is ``not checked``, with the reason, and never passed. Prints a table, writes
results/gpu_check.json, and exits with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results/gpu_check.json"
#: Largest difference of pixels from those of a CPU, of 255.
FP32_LIMIT, BF16_LIMIT = 1, 3
#: Seconds that all checks may take, and one alone.
TOTAL_S, ONE_S = 580, 150
COMMAND = "from normpipe.pipeline.commands.app import main; main()"
SHARD_ROWS = 8


class NotChecked(Exception):
    """A check cannot run here; the message says why."""


# ---------------------------------------------------------------- what there is


def missing_packages() -> list[str]:
    """Return the requirements of normpipe that are not installed, without those for developers."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    missing: list[str] = []
    for line in wanted:
        name = line.split(">")[0].split("=")[0].split("<")[0].strip()
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            if name != "onnxruntime" or not _installed("onnxruntime-gpu"):
                missing.append(line)
    return missing


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def wheels_line(missing: list[str]) -> str:
    """Return the command that downloads what is missing, for this Python and system."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    named = " ".join(f"'{one}'" for one in missing)
    return (
        f"python3 -m pip download --only-binary :all: --python-version {version} --platform "
        f"manylinux_2_28_x86_64 --no-deps --dest wheels {named}\n"
        "then, here: python3 -m pip install --no-index wheels/*.whl"
    )


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return the versions, and the GPU with its memory and driver."""
    import torch

    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
    }
    for name in ("onnxruntime-gpu", "onnxruntime", "insightface", "opencv-python", "numba"):
        found[name] = metadata.version(name) if _installed(name) else None
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found |= {"gpu": about.name, "gpu_gib": round(about.total_memory / 2**30, 1)}
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(0)))
    elif options.device == "cuda":
        raise AssertionError("torch sees no GPU: run normpipe doctor")
    return found


# ---------------------------------------------------------------- the same pixels


def _faces(count: int = 27, side: int = 224) -> list[Any]:
    """Return the sample photographs as if they were aligned faces, (S, S, 3) uint8 RGB."""
    import numpy as np
    from PIL import Image

    paths = sorted((ROOT / "stages/samples").glob("person*.jpg"))[:count]
    return [np.asarray(Image.open(p).convert("RGB").resize((side, side))) for p in paths]


def _normalized(device: str, **settings: Any) -> Any:
    import numpy as np

    import normpipe

    return np.stack(list(normpipe.Normalizer(device=device, **settings)(_faces())))


def _compared(one: Any, other: Any) -> dict[str, float]:
    """Return how far pixels lie apart, of 255: at most, and 99.9 % of their values."""
    import numpy as np

    apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
    return {"largest": int(apart.max()), "99.9 %": float(np.quantile(apart, 0.999))}


def parity_fp32(options: argparse.Namespace) -> dict[str, Any]:
    """Normalized faces of the device against those of the CPU, in float32."""
    found = _compared(_normalized("cpu"), _normalized(options.device))
    assert found["largest"] <= FP32_LIMIT, f"pixels differ by {found} of 255, limit {FP32_LIMIT}"
    return found


def parity_bf16(options: argparse.Namespace) -> dict[str, Any]:
    """Normalized faces of the device in bfloat16 against those of the CPU in float32.

    The limit is for 99.9 % of the values: a coefficient that differs by 0.004 moves edges, where
    single values differ by 12 (on a CPU, too).
    """
    found = _compared(_normalized("cpu"), _normalized(options.device, precision="bf16"))
    assert found["99.9 %"] <= BF16_LIMIT, f"pixels differ by {found} of 255, limit {BF16_LIMIT}"
    return found


def batches_alike(options: argparse.Namespace) -> dict[str, Any]:
    """The same bytes twice, and for a part of a batch."""
    import numpy as np

    import normpipe

    tool = normpipe.Normalizer(device=options.device)
    faces = _faces()
    whole = tool(faces)
    assert np.array_equal(whole, tool(faces)), "the same batch gave other pixels the second time"
    assert np.array_equal(whole[:5], tool(faces[:5])), "a shorter batch gave other pixels"
    return {"faces": len(faces)}


def onnx_runtime(options: argparse.Namespace) -> dict[str, Any]:
    """An exported network: is the provider really active, and does it give torch's pixels?"""
    from normpipe.stages.networks.files.onnx_file import open_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compact.onnx"
        _command("export-normalizer", "compact", "--onnx", path, "--input-size", 224)
        exported = open_onnx(path, options.device, 1)
        providers = exported.session.get_providers()
        assert exported.device_class == options.device, f"it runs on {exported.device_class}"
        found = _compared(_normalized("cpu"), _normalized(options.device, weights=str(path)))
    assert found["largest"] <= FP32_LIMIT, f"pixels differ by {found} of 255, limit {FP32_LIMIT}"
    return {"providers": ", ".join(providers), **found}


def detector(options: argparse.Namespace) -> dict[str, Any]:
    """A pack's detector on the device finds the faces that it finds on the CPU."""
    import numpy as np

    import normpipe

    if not options.pack:
        raise NotChecked("no pack given (--pack)")
    photographs = _faces(side=512)
    given = {"detector": "insightface", "pack": str(Path(options.pack).resolve())}
    here = normpipe.Aligner(device="cpu", **given)(photographs, all=True)
    there = normpipe.Aligner(device=options.device, **given)(photographs, all=True)
    assert [len(one) for one in here] == [len(one) for one in there], "other faces are found"
    pairs = [
        (a, b)
        for one, other in zip(here, there, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    means = [float(np.abs(a.astype(float) - b).mean()) for a, b in pairs]
    assert means and max(means) < 2, f"crops differ by {max(means):.1f} of 255 on average"
    return {"faces": len(pairs), "largest_mean_difference": round(max(means), 3)}


# ---------------------------------------------------------------- the job


def _command(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run normpipe in a process of its own."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ONE_S)
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done


def _job(folder: Path, options: argparse.Namespace) -> list[object]:
    photographs = folder / "photographs"
    if not photographs.is_dir():
        photographs.mkdir(parents=True)
        for path in sorted((ROOT / "stages/samples").glob("person*.jpg")):
            shutil.copy(path, photographs)
    return [
        "run", "--input", photographs, "--until", "normalize", "--dataset", "check",
        "--set", f"ingest.shard_rows={SHARD_ROWS}", "--set", "align.detector=none",
        "--set", f"normalize.device={options.device}", "--set", "run.threads=2",
    ]  # fmt: skip


def _digests(output: Path) -> dict[str, str]:
    shards = sorted((output / "normalized/compact").glob("shard-*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """A job that is killed in the middle ends with the bytes of one that was not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = _job(folder, options)
        _command(*arguments, "--output", folder / "whole")
        whole = _digests(folder / "whole")
        command = [sys.executable, "-c", COMMAND, *map(str, arguments), "--output", folder / "cut"]
        process = subprocess.Popen(
            [str(one) for one in command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + ONE_S / 2
        while (
            not _digests(folder / "cut") and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        early = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        _command(*arguments, "--output", folder / "cut")
        assert whole and _digests(folder / "cut") == whole, "the bytes differ after a kill"
    if not early:
        raise NotChecked("the job ended before it could be killed")
    return {"shards": len(whole)}


def two_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Two workers share the device, and give the bytes of one process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = _job(folder, options)
        _command(*arguments, "--output", folder / "one")
        _command(*arguments, "--output", folder / "two", "--workers", 2)
        assert _digests(folder / "one") == _digests(folder / "two"), "the bytes differ"
        return {"shards": len(_digests(folder / "two"))}


def out_of_memory(options: argparse.Namespace) -> dict[str, Any]:
    """A batch that is too large ends in one line that says what to do, and in no traceback."""
    if options.device != "cuda":
        raise NotChecked("needs a GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = _job(folder, options)
        batch = ["--set", "normalize.batch_size=100000", "--output", folder / "out"]
        done = _command(*arguments, *batch, check=False)
    line = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr, done.stderr[-500:]
    assert done.returncode in (2, 3), f"exit {done.returncode}: {line}"
    assert "memory" in line, line
    return {"exit": done.returncode, "line": line[:160]}


# ---------------------------------------------------------------- speed


def _script(name: str, *arguments: object) -> Any:
    """Run another benchmark; return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        option = "--output" if name == "networks.py" else "--json"
        command = [sys.executable, ROOT / "benchmarks" / name, *arguments, option, path]
        done = subprocess.run(
            [str(one) for one in command], capture_output=True, text=True, timeout=ONE_S
        )
        if not path.is_file():
            raise AssertionError(f"exit {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
        return json.loads(path.read_text("utf-8"))


def stages(options: argparse.Namespace) -> dict[str, Any]:
    """benchmarks/stages.py on the device: images per second, against the networks alone."""
    images, alone = (64, 0.2) if options.quick else (4096, 3)
    arguments = ["--device", options.device, "--images", images, "--alone", alone]
    if options.pack:
        arguments += ["--pack", options.pack]
    else:
        arguments += ["--set", "align.device=cpu"]  # the cascades run on no GPU
    if options.device == "cuda":
        arguments += ["--set", "normalize.batch_size=256"]
    found = _script("stages.py", *arguments)
    return {r["case"]: f"{r['images_per_s']:.0f}/s, {r['ratio']:.2f}" for r in found["results"]}


def _networks(options: argparse.Namespace, *more: object) -> dict[str, Any]:
    seconds, batch = (0.2, 2) if options.quick else (3, 128)
    names = ["compact"] if options.quick else ["compact", "norface-S", "norface-B"]
    arguments = ["--device", options.device, "--batch", batch, "--seconds", seconds]
    found = _script("networks.py", *arguments, "--networks", *names, *more)
    return {
        f"{r['network']} {r['precision']}": f"{r['images_per_s']:.0f}/s, "
        f"{r['share_of_products']:.2f} of {r['matrix_products_tflops']:g} TFLOP/s"
        for r in found["rows"]
    }


def networks(options: argparse.Namespace) -> dict[str, Any]:
    """The networks alone, and the share of the device's matrix products that they reach."""
    return _networks(options)


def networks_compiled(options: argparse.Namespace) -> dict[str, Any]:
    """The same with torch.compile."""
    if options.quick:
        raise NotChecked("left out with --quick: compiling takes a minute")
    return _networks(options, "--compile")


def cuda_graph(options: argparse.Namespace) -> dict[str, Any]:
    """compact in a CUDA graph: faces per second with and without it, batches of 32."""
    import torch

    if options.device != "cuda":
        raise NotChecked("needs a GPU")
    from normpipe.stages.networks.files.checkpoint import find_weights
    from normpipe.stages.networks.files.normalizer_file import open_normalizer

    module = open_normalizer(find_weights("compact")).module.for_inference().cuda()
    images = torch.rand(32, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            plain = module(images).clone()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            drawn = module(images)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(plain, drawn), "the graph gives other pixels"
        rates = [32 * _rate(step, options) for step in (lambda: module(images), graph.replay)]
    return {"without": f"{rates[0]:.0f}/s", "with": f"{rates[1]:.0f}/s"}


def _rate(step: Callable[[], Any], options: argparse.Namespace) -> float:
    """Return how often a step runs in a second."""
    import torch

    def wait() -> None:
        if options.device == "cuda":
            torch.cuda.synchronize()

    for _ in range(1 if options.quick else 5):
        step()
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < (0.5 if options.quick else 4):
        step()
        wait()
        count += 1
    return count / (time.perf_counter() - start)


def training(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps of the normalizers, batches of 48 at their own sizes, bfloat16 on a GPU."""
    import torch

    from normpipe.stages.networks import NETWORKS

    models: dict[str, tuple[str, dict[str, Any]]] = {"compact": ("compact", {})}
    if not options.quick:
        models |= {f"norface-{s}": ("norface", {"size": s}) for s in ("S", "B")}
    batch, found = 2 if options.quick else 48, {}
    for name, (network, settings) in models.items():
        module = NETWORKS[network](**settings).train().to(options.device)
        optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
        images = torch.rand(batch, 3, module.input_size, module.input_size, device=options.device)

        def step(module: Any = module, optimizer: Any = optimizer, images: Any = images) -> None:
            with torch.autocast(options.device, torch.bfloat16, options.device == "cuda"):
                outputs = module.forward_train(images)
                loss = outputs.picture.float().square().mean()
                loss = loss + outputs.reading.coefficients.float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        found[name] = f"{_rate(step, options):.2f} steps/s of {batch}"
    return found


def classifier(options: argparse.Namespace) -> dict[str, Any]:
    """Does reading keep up with training? benchmarks/classifier.py on the samples."""
    with tempfile.TemporaryDirectory() as name:
        samples = ROOT / "stages/samples"
        _command(
            "run", "--input", samples / "labels.csv", "--output", Path(name) / "job",
            "--until", "pair", "--set", f"ingest.root={samples}",
            "--set", "ingest.au_columns=intensity",
            "--set", "align.detector=none", "--set", f"normalize.device={options.device}",
        )  # fmt: skip
        batch, steps = (4, 4) if options.quick else (64, 40)
        arguments = ["--device", options.device, "--batch", batch, "--steps", steps]
        found = _script("classifier.py", Path(name) / "job", *arguments, "--preset", "compact")
    return {one: f"{value:.2f} steps/s" for one, value in found["steps_per_second"].items()}


def rendering(options: argparse.Namespace) -> dict[str, Any]:
    """Pairs per second of the renderer."""
    if not options.facekit:
        raise NotChecked("no face kit given (--facekit)")
    pairs = 8 if options.quick else 512
    arguments = ["--facekit", options.facekit, "--device", options.device, "--pairs", pairs]
    found = _script("rendering.py", *arguments, "--batch", 4 if options.quick else 128)
    return {
        f"{one['source_px']}/{one['target_px']} px": f"{one['pairs_per_second']:.0f} pairs/s"
        for one in found["sizes"]
    }


CHECKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    one.__name__: one
    for one in (
        environment, parity_fp32, parity_bf16, batches_alike, onnx_runtime, detector, resume,
        two_processes, out_of_memory, networks, networks_compiled, cuda_graph, training,
        classifier, rendering, stages,
    )
}  # fmt: skip


# ---------------------------------------------------------------- running them


def run_one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one check; return its state, ``passed``, ``failed`` or ``not checked``, and figures."""
    if name != "environment" and options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return {"state": "not checked", "why": "torch sees no GPU"}
    try:
        return {"state": "passed", "figures": CHECKS[name](options)}
    except NotChecked as why:
        return {"state": "not checked", "why": str(why)}
    except ImportError as error:
        return {"state": "not checked", "why": str(error)}
    except AssertionError as error:
        return {"state": "failed", "why": str(error)}
    except Exception as error:  # whatever breaks on a machine that nobody has seen
        return {"state": "failed", "why": f"{type(error).__name__}: {error}"[:600]}


def _apart(name: str, arguments: list[str], seconds: float) -> dict[str, Any]:
    """Run one check in a process of its own."""
    if seconds < 5:
        return {"state": "not checked", "why": f"the {TOTAL_S} s of all checks are over"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name, *arguments]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(seconds, ONE_S))
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = {"state": "not checked", "why": "it took too long"}
    except (ValueError, IndexError):
        found = {"state": "failed", "why": f"exit {done.returncode}: {done.stderr[-500:]}"}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return a line for each check, and a line below for each figure."""
    lines: list[str] = []
    for name, one in found.items():
        lines.append(
            f"{name:18} {one['state']:12} {one.get('seconds', 0):6.1f} s  {one.get('why', '')}"
        )
        lines += [f"    {what}: {value}" for what, value in one.get("figures", {}).items()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run all checks, or one; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--pack", default="", help="insightface pack (a directory)")
    parser.add_argument("--facekit", default="", help="ICT-FaceKit, packed (.npz)")
    parser.add_argument("--quick", action="store_true", help="the logic, not the speed")
    parser.add_argument("--only", nargs="*", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--one", choices=list(CHECKS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    # The package is this folder under its name, whatever is installed.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "normpipe").symlink_to(ROOT)
        if options.one:
            sys.path.insert(0, folder)
            os.environ["PYTHONPATH"] = folder
            print(json.dumps(run_one(options.one, options)))
            return 0
    if missing := missing_packages():
        print(f"missing: {', '.join(missing)}\nbring along: {wheels_line(missing)}")
    else:
        print("every package that normpipe needs is here")
    passed = [one for one in arguments if one not in ("--only", *options.only)]
    end = time.monotonic() + TOTAL_S
    found: dict[str, dict[str, Any]] = {}
    for name in options.only:
        print(f"checking {name} …", file=sys.stderr, flush=True)
        found[name] = _apart(name, passed, end - time.monotonic())
    print(table(found))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"device": options.device, "missing": missing, "checks": found}
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    counts = {
        s: sum(one["state"] == s for one in found.values())
        for s in ("passed", "failed", "not checked")
    }
    print(", ".join(f"{count} {state}" for state, count in counts.items()), f"– {options.json}")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
