"""The rules of the house, read from the source: who may import whom, where things may be named."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mova_jax"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 350, 50  # lines
FULLEST = 20  # files of a folder
FORMER_NAMES = """Parties OneParty parties party laid_out laid_out_by WaitingFrames KeptPrograms
keep_programs DeviceUse Vote _Taken _settle _Fetched kept_text kept_video found_first Outcome Joined
ClearErrors _clear_errors BothWays Shipment shipment Opened to_ours _leans _apart""".split()
SHIPPED = "mova_jax/export/torch_model/"  # runs without the package, in exported folders
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PURE = {"jax", "flax", "numpy", "jaxtyping"}  # what a model or a loss is made of


def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports(file: str) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module
            if file.startswith(SHIPPED) and node.level == 1:
                module = f"{SHIPPED.replace('/', '.')}{module}"
            else:
                assert not node.level, f"{file} imports {module} relatively: write mova_jax.…"
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, *modules: str) -> bool:
    """Whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def files_in(*rooms: str) -> list[str]:
    return [f for f in FILES if any(f.startswith(f"mova_jax/{room}") for room in rooms)]


def importers(*modules: str) -> set[str]:
    """Files of the package that import one of the modules."""
    return {file for file in FILES if any(within(name, *modules) for name in imports(file))}


# Imports run down these floors, or along one; the last is the ground.
FLOORS = (
    ("main", "prepare", "evaluate", "embed", "search_command", "convert", "plan"),
    ("export", "search", "planning", "suites"),
    ("training",),
    ("report",),
    ("evaluation",),
    ("weights",),
    ("parallel", "data"),
    ("models", "losses", "cost"),
    ("typing", "config", "utils"),
)


def room_of(module: str) -> str:
    """`data` of `mova_jax.data.shards.reader`, '' of the package itself."""
    return module.split(".")[1] if "." in module else ""


def modules() -> dict[str, set[str]]:
    """Every module of the package, and the modules of the package that it imports anywhere."""
    known = {file.removesuffix(".py").replace("/", ".") for file in FILES}
    found = {}
    for file in FILES:
        name = file.removesuffix(".py").replace("/", ".")
        targets = set()
        for target in (target for target in imports(file) if within(target, "mova_jax")):
            while target and target not in known and f"{target}.__init__" not in known:
                target = target.rpartition(".")[0]
            targets.add(target if target in known else f"{target}.__init__")
        found[name] = targets - {name, "mova_jax.__init__"}
    return found


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """Nodes that can be reached from themselves."""
    left = {node: set(targets) for node, targets in arrows.items()}
    while ends := {node for node, targets in left.items() if not targets & left.keys()}:
        left = {node: targets for node, targets in left.items() if node not in ends}
    return set(left)


def test_the_package_was_found():
    rooms = {file.split("/")[1] for file in FILES}
    assert {"models", "losses", "training", "data", "evaluation", "config"} <= rooms
    assert "jax" in {name.split(".")[0] for name in imports("mova_jax/models/mova.py")}
    assert "mova_jax.models.layers" in modules()["mova_jax.models.masks"]


def test_no_import_runs_up():
    floor = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}
    up = [
        f"{module} imports {target}"
        for module, targets in modules().items()
        for target in targets
        if room_of(module) != "__init__" and floor[room_of(target)] > floor[room_of(module)]
    ]
    assert not up


def test_there_are_no_circles():
    found = modules()
    # A package's __init__ passes on names of its own files; they may import each other.
    assert not circles({m: {t for t in ts if "__init__" not in t} for m, ts in found.items()})
    rooms: dict[str, set[str]] = {}
    for module, targets in found.items():
        inside = {room_of(target) for target in targets} - {room_of(module)}
        rooms.setdefault(room_of(module), set()).update(inside)
    assert not circles(rooms)


def test_no_folder_is_a_heap():
    folders = [(ROOT / file).parent for file in FILES]
    crowded = {folder.name: folders.count(folder) for folder in folders}
    assert {name: count for name, count in crowded.items() if count > FULLEST} == {}


def test_a_name_has_one_spelling():
    """Private words for standard things, which were replaced, do not come back."""
    texts = [*PACKAGE.rglob("*.py"), *ROOT.glob("*/*.md"), *ROOT.glob("[A-BD-Z]*.md")]
    texts += [*ROOT.glob("configs/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    texts += ROOT.glob("tests/*/*.py")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in texts
        for word in re.findall(rf"\b(?:{'|'.join(FORMER_NAMES)})\b", path.read_text("utf-8"))
        if path.stem.removeprefix("test_") != "metric_log"  # reads the metrics of older runs
    ]
    assert not found


@pytest.mark.parametrize("file", files_in("models/", "losses/", "evaluation/ranks.py"))
def test_models_losses_and_ranks_are_pure(file):
    room = ".".join(file.split("/")[:2]).removesuffix(".py")
    allowed = ("mova_jax.typing", room)
    foreign = {
        name
        for name in imports(file)
        if name.split(".")[0] not in PURE | set(sys.stdlib_module_names)
        and not within(name, *allowed)
        # `from mova_jax import typing` is the same module
        and not within(name, "mova_jax.typing")
    }
    assert not foreign, f"{file} may import {sorted(PURE)}, mova_jax.typing and {room} only"
    # A model or a loss reads no file, no clock and no environment.
    assert not {n.split(".")[0] for n in imports(file)} & {"os", "pathlib", "time", "random", "sys"}


def test_data_knows_no_model():
    for file in files_in("data/"):
        rooms = ("mova_jax.models", "mova_jax.losses", "mova_jax.training", "flax", "optax")
        assert not any(within(name, *rooms) for name in imports(file)), file


def test_configuration_knows_no_array():
    for file in files_in("config/"):
        assert not any(within(n, "jax", "numpy", "flax") for n in imports(file)), file


@pytest.mark.parametrize(
    ("modules", "home"),
    [
        (("orbax",), {"mova_jax/training/checkpoint.py"}),
        (
            ("av",),
            {f"mova_jax/data/ingest/{f}.py" for f in ("media_file", "video_reader", "remux")},
        ),
        (("fsspec",), {"mova_jax/data/storage.py"}),
        (("apache_beam",), {"mova_jax/data/beam_pipeline.py"}),
        (("torch", "safetensors", "onnx", "onnxruntime"), set(files_in("weights/", "export/"))),
        (
            ("transformers", "tokenizers"),
            {
                "mova_jax/data/tokenizer.py",
                "mova_jax/export/huggingface.py",
                "mova_jax/export/hub.py",
                "mova_jax/export/hub_model.py",
                "mova_jax/export/external_backends.py",
            },
        ),
        (("tensorboardX",), {"mova_jax/utils/metric_log.py"}),
        (("wandb", "trackio"), {"mova_jax/utils/trackers.py"}),
        (("optax",), set(files_in("training/"))),
        (
            ("starlette", "uvicorn"),
            {f"mova_jax/search/page/{f}.py" for f in ("app", "guard", "serve")},
        ),
        (("pymilvus",), {"mova_jax/search/engine.py"}),
        (("pyarrow",), {"mova_jax/search/parquet_file.py", "mova_jax/data/annotations/files.py"}),
        (("mteb",), {"mova_jax/suites/mteb.py"}),
        (("matplotlib",), set(files_in("report/"))),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, tuple) else None,
)
def test_every_heavy_library_lives_in_one_place(modules, home):
    assert importers(*modules) <= home


def test_mesh_axes_are_named_in_one_file():
    home = "mova_jax/parallel/sharding.py"
    words = {"PartitionSpec", "AxisType", "NamedSharding", "axis_name", "DATA", "FSDP", "TENSOR"}
    for file in set(FILES) - {home}:
        nodes = list(ast.walk(tree_of(file)))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        used |= {node.id for node in nodes if isinstance(node, ast.Name)}
        used |= {name.rpartition(".")[2] for name in imports(file)}
        # Models, losses and data do not even ask for a mesh.
        pure = file in files_in("models/", "losses/", "data/")
        named = used & (words | {"make_mesh"} if pure else words)
        assert not named, f"{file} names {named}: mesh axes belong to {home}"


def public_nodes(tree: ast.Module):
    """Public classes and functions with their dotted names, methods too."""

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DEFINITIONS) and not child.name.startswith("_"):
                yield inside + child.name, child
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{inside}{child.name}.")

    return visit(tree, "")


def test_files_and_functions_are_short():
    long = []
    for file in FILES + EXAMPLES:
        text = (ROOT / file).read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LONGEST_FILE:
            long.append(f"{file}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
                if lines > LONGEST_FUNCTION:
                    long.append(f"{file}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "split by what the parts are for"


def docstring_lines(node) -> int:
    """Lines of a function's docstring, which do not count: they may explain at length."""
    if ast.get_docstring(node) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def test_everything_public_has_a_docstring():
    silent = [file for file in FILES + EXAMPLES if not ast.get_docstring(tree_of(file))]
    for file in FILES + EXAMPLES:
        nodes = public_nodes(tree_of(file))
        silent += [f"{file}: {name}" for name, node in nodes if not ast.get_docstring(node)]
    assert not silent
