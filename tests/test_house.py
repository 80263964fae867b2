"""The house stays as DESIGN and docs/architecture.md describe it: rooms, imports, habits, docs."""

import ast
import graphlib
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from normpipe.pipeline.commands.app import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("manifests", "pipeline", "stages")
#: Rooms in which every module has tests of its own.
MIRRORED = ("manifests", "pipeline")
LONGEST_FILE = 400
LONGEST_CHAIN, MOST_IN_A_FOLDER = 10, 12

#: What a stage may know of the engine: the contract, and the files that it reads and writes.
CONTRACT = {
    "errors",
    "stage",
    "config",
    "store/commit",
    "store/lock",
    "store/shards",
    "store/labels",
    "store/result_tables",
    "store/storage",
    "read/reading",
    "read/dataset",  # as a type: a command opens the dataset that it hands in
    "read/exclusions",
    "read/columns",
}
#: Modules of stages that may know more, with the reason.
BEYOND_CONTRACT = {
    # Draws from a finished job's folder: reads its job.toml.
    "stages/review/sheet.py": {"store/job_file"},
    "stages/review/faces_of_job.py": {"store/job_file"},
}
#: The command line knows the engine and the stages; nothing else does.
BOTH_SIDES = "pipeline/commands/"
#: The only module that may import dask.
DASK_MODULES = {"pipeline/run/cluster.py"}
#: What runs code on loading, and so is never used for data or weights.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: Networks know no files; these modules do, for them.
NETWORK_FILES = "stages/networks/files/"
#: Reads other people's checkpoints, which are pickles: for their tensors alone.
READS_PICKLES = "stages/networks/files/mae_checkpoints.py"
#: Names that more than one module may give to a function, with the reason.
SHARED_NAMES = {
    "main": "what a program starts with",
    "run": "the command, and its call from Python",
    # The loops of rendering: compiled for a CPU, and the same as array operations for a GPU.
    **dict.fromkeys(
        ("blend", "cast_shadow", "move_heads", "normals", "rasterize", "sample"),
        "one function for two devices",
    ),
}
#: A shape in a docstring: ``(N, 5, 2)``, ``(E, 3 * V)``, ``(L,)``; ``(...)`` is any, ``()`` none.
_SIDE = r"(?:`*\w+`*(?: ?[*+/-] ?\w+)?|\.\.\.|…)"
SHAPE = re.compile(rf"(?<!\w)\((?:{_SIDE}(?:, {_SIDE})+|\w+,|\.\.\.|…|)\)")
#: Modules whose array functions need not all say their shapes, with the reason.
SHAPES_SAID_ONCE = {
    # Every loss takes what `Views.forward` has seen and a batch, whose shapes are said there.
    "stages/training/normalizer/losses.py",
}
EVERYTHING = {"Exception", "BaseException"}
#: Where array types get their names.
ARRAYS = "manifests/arrays.py"
#: How many broad excepts a module has; each says beside it why nothing narrower will do.
BROAD_EXCEPTS = {
    "pipeline/commands/handling.py": 1,
    "pipeline/run/cluster.py": 7,
    "pipeline/run/making.py": 2,
    "pipeline/run/places.py": 1,
    "pipeline/run/runner.py": 1,
    "pipeline/store/shards.py": 1,
    "pipeline/store/storage.py": 1,
    "stages/checks/models.py": 1,
    "stages/checks/runtime.py": 1,
    "stages/faces/isolation.py": 1,
    "stages/networks/files/mae_checkpoints.py": 1,
    "stages/networks/files/installed.py": 1,
    "stages/networks/files/onnx_file.py": 1,
    "stages/publishing/push_dataset.py": 1,
    "stages/review/job_report.py": 1,
    "stages/videos/frame_process.py": 3,
}


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, with_types: bool = True) -> Iterator[str]:
    """Yield what a module imports, as dotted names; our own start with ``normpipe``."""
    package = ["normpipe", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set[ast.AST]() if with_types else only_for_types(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def only_for_types(tree: ast.AST) -> set[ast.AST]:
    """Return all nodes below ``if TYPE_CHECKING:``, which nothing runs."""
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    guarded = (node for node in tests if "TYPE_CHECKING" in ast.unparse(node.test))
    return {below for node in guarded for one in node.body for below in ast.walk(one)}


def import_graph() -> dict[str, set[str]]:
    """Return module → modules of ours that running it imports, inside functions too."""
    graph: dict[str, set[str]] = {}
    for path in sources():
        name = name_of(path).removesuffix(".py")
        graph[name] = set()
        for module in modules_imported(path, with_types=False):
            found = module if (ROOT / f"{module}.py").is_file() else f"{module}/__init__"
            graph[name] |= {found} - {name}
    return graph


def modules_imported(path: Path, with_types: bool = True) -> Iterator[str]:
    """Yield the modules of ours that a module imports, as ``pipeline/store/shards``."""
    for name in imports(path, with_types):
        parts = name.split(".")
        if parts[0] == "normpipe":
            for count in range(len(parts), 1, -1):
                module = "/".join(parts[1:count])
                if (ROOT / f"{module}.py").is_file() or (ROOT / module).is_dir():
                    yield module
                    break


def called_names(path: Path) -> Iterator[str]:
    """Yield dotted names of what a module calls: ``open``, ``torch.load``, ``x.read_bytes``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def unsafe_loads(path: Path) -> list[int]:
    """Return the lines that call ``torch.load`` without ``weights_only=True``."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and "weights_only=True" not in {ast.unparse(word) for word in node.keywords}
    ]


def test_imports_go_one_way() -> None:
    allowed = {
        "manifests": {"manifests"},
        "pipeline": {"manifests", "pipeline"},
        "stages": {"manifests", "pipeline", "stages"},
    }
    wrong: list[str] = []
    for path in sources():
        name = name_of(path)
        room = name.partition("/")[0]
        known = CONTRACT | BEYOND_CONTRACT.get(name, set())
        for module in modules_imported(path):
            other, _, inside = module.partition("/")
            if other not in allowed[room] and not name.startswith(BOTH_SIDES):
                wrong.append(f"{name} imports {module}")
            if room == "stages" and other == "pipeline" and inside not in known:
                wrong.append(f"{name} imports {module}, which is no contract")
    assert not wrong, "\n".join(wrong)


def test_imports_are_shallow_and_have_no_circle() -> None:
    graph = import_graph()
    order = graphlib.TopologicalSorter(graph).static_order()  # raises CycleError, with the circle
    chains: dict[str, list[str]] = {}
    for module in order:
        below = [chains[other] for other in graph[module]]
        chains[module] = [module, *max(below, key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= LONGEST_CHAIN, " → ".join(longest)


def test_folders_hold_few_modules_and_names_are_used_once() -> None:
    modules = [path for path in sources() if path.name != "__init__.py"]
    flat = Counter(name_of(path.parent) for path in modules)
    assert not {folder: count for folder, count in flat.items() if count > MOST_IN_A_FOLDER}
    names = Counter(path.name for path in modules)
    assert not {name: count for name, count in names.items() if count > 1}


def test_tests_mirror_the_tree() -> None:
    """A module of the engine has its tests at its own path below tests."""
    without: list[str] = []
    for path in sources():
        room = name_of(path).partition("/")[0]
        if room not in MIRRORED or path.name == "__init__.py":
            continue
        tests = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
        body = ast.parse(tests.read_text(encoding="utf-8")).body if tests.is_file() else []
        if not any(isinstance(one, ast.FunctionDef) and one.name[:5] == "test_" for one in body):
            without.append(f"{name_of(path)} has no test in {name_of(tests)}")
    assert not without, "\n".join(without)


def test_the_engine_knows_no_faces() -> None:
    """Stages and ``manifests`` declare their datasets; the engine has none of their names."""
    theirs = {"ingest", "align", "normalize", "pair", "classify", "aligned", "normalized", "pairs"}
    wrong: list[str] = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        if name_of(path).startswith(BOTH_SIDES):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if text.strip("/_") in theirs or "#face" in text.split():
                    wrong.append(f"{name_of(path)}:{node.lineno}: {text!r}")
    assert not wrong, "\n".join(wrong)


def test_nothing_that_runs_code_on_loading() -> None:
    wrong: list[str] = []
    for path in sources():
        found = {name.partition(".")[0] for name in imports(path)} & UNSAFE_MODULES
        calls = {*called_names(path)} & {"torch.load", "eval", "exec"}
        if name_of(path) == READS_PICKLES and not unsafe_loads(path):
            calls.discard("torch.load")
        wrong += [f"{name_of(path)}: {word}" for word in sorted(found | calls)]
        source = path.read_text(encoding="utf-8")
        if source.count("np.load(") != source.count("allow_pickle=False"):
            wrong.append(f"{name_of(path)}: np.load without allow_pickle=False")
    assert not wrong, "\n".join(wrong)


def test_only_the_executor_imports_dask() -> None:
    users = [
        name_of(path)
        for path in sources()
        if {name.partition(".")[0] for name in imports(path)} & {"dask", "distributed"}
    ]
    assert {*users} <= DASK_MODULES


def test_networks_know_no_files() -> None:
    files = {"pathlib", "os", "io", "shutil", "safetensors", "pyarrow", "cv2", "PIL"}
    wrong: list[str] = []
    for path in (ROOT / "stages/networks").rglob("*.py"):
        roots = {name.partition(".")[0] for name in imports(path)}
        opens = roots & files or "open" in called_names(path)
        if opens and not name_of(path).startswith(NETWORK_FILES):
            wrong.append(name_of(path))
    assert not wrong


def test_files_stay_short() -> None:
    lines = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}


def test_a_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    for name in {command.replace("-", "_") for command in commands()} & twice.keys():
        # A command may be named as the one function that does its work.
        if sum(not place.startswith(BOTH_SIDES) for place in twice[name]) == 1:
            del twice[name]
    assert twice.keys() == SHARED_NAMES.keys(), twice


def broad_excepts(path: Path) -> list[int]:
    """Return the lines that catch or suppress every exception."""
    found: list[int] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        caught: list[ast.expr | None] = []
        if isinstance(node, ast.ExceptHandler):
            caught = [*node.type.elts] if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = [*node.args]
        if any(one is None or ast.unparse(one) in EVERYTHING for one in caught):
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def test_broad_excepts_say_why() -> None:
    counts: dict[str, int] = {}
    silent: list[str] = []
    for path in sources():
        lines = path.read_text(encoding="utf-8").splitlines()
        for number in broad_excepts(path):
            counts[name_of(path)] = counts.get(name_of(path), 0) + 1
            above = lines[number - 2].lstrip()
            if "  # " not in lines[number - 1] and not above.startswith("# "):
                silent.append(f"{name_of(path)}:{number}")
    assert not silent
    assert counts == BROAD_EXCEPTS


def named_arrays(kind: str) -> list[tuple[str, str]]:
    """Return the modules that give a name to a type that begins so, each with the name."""
    given = re.compile(rf"^([A-Za-z]\w*) = {re.escape(kind)}", re.MULTILINE)
    return [
        (name_of(path), name)
        for path in sources()
        for name in given.findall(path.read_text(encoding="utf-8"))
    ]


def test_array_types_have_one_home() -> None:
    assert {module for module, _ in named_arrays("NDArray[")} == {ARRAYS}


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Yield public functions, and public methods of public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)


def test_array_functions_say_their_shapes() -> None:
    named = named_arrays("NDArray[") + named_arrays("dict[str, Tensor]")
    names = {"NDArray", "ndarray", "Tensor", *(name for _, name in named)}
    array = re.compile(rf"\b(?:{'|'.join(sorted(names))})\b")
    silent: list[str] = []
    for path in sources():
        if name_of(path) in SHAPES_SAID_ONCE:
            continue
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8")).body):
            returned = ast.unparse(node.returns) if node.returns else ""
            of_arrays = array.search(f"{ast.unparse(node.args)} {returned}")
            if of_arrays and not SHAPE.search(ast.get_docstring(node) or ""):
                silent.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def tracked() -> list[Path]:
    """Return the files of the repository (those to be, too); skip outside a git checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    paths = (ROOT / name for name in listed.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_no_file_speaks_of_a_machine() -> None:
    # Built here so that this file does not match itself.
    folders = "|".join(["home", "root", "work", "Users", "mnt", "opt", "tmp"])
    absolute = re.compile(rf"(?<![\w.~/:}}])/(?:{folders})/[\w.]")
    hosts = re.compile("|".join([r"pypi\.", r"download\.pytorch", "index" + "-url"]))
    found: list[str] = []
    for path in tracked():
        if path.suffix in {".jpg", ".png", ".safetensors", ".parquet"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if absolute.search(line) or (hosts.search(line) and path != Path(__file__)):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def commands() -> list[str]:
    return [*COMMANDS]


def project() -> tuple[dict, list[str]]:  # type: ignore[type-arg]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text), text.splitlines()


def test_every_dependency_says_why() -> None:
    settings, lines = project()
    extras = settings["project"]["optional-dependencies"]
    wanted = [*settings["project"]["dependencies"], *extras["dev"]]
    reasons = {}
    for line in lines:
        if match := re.match(r'\s+"([^"]+)",\s*(#.*)?$', line):
            reasons[match[1]] = match[2]
    for requirement in wanted:
        if requirement.startswith("pytest>="):
            continue
        assert reasons.get(requirement), f"{requirement} has no reason behind it"


def test_every_package_is_listed() -> None:
    settings, _ = project()
    listed = set(settings["tool"]["setuptools"]["packages"])
    found = {"normpipe"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add(".".join(["normpipe", *init.parent.relative_to(ROOT).parts]))
    assert listed == found
    # A folder of modules without __init__.py would be left out of the wheel.
    for path in sources():
        assert (path.parent / "__init__.py").is_file(), f"{name_of(path.parent)} is no package"
