"""The rules of the house, read from the source: who may import whom, where things may be named."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mova_jax"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*.py"))
LONGEST = 500  # lines of a file
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
            assert not node.level, f"{file} imports {node.module} relatively: write mova_jax.…"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, *modules: str) -> bool:
    """Whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def files_in(*rooms: str) -> list[str]:
    return [f for f in FILES if any(f.startswith(f"mova_jax/{room}") for room in rooms)]


def importers(*modules: str) -> set[str]:
    """Files of the package that import one of the modules."""
    return {file for file in FILES if any(within(name, *modules) for name in imports(file))}


def test_the_package_was_found():
    rooms = {file.split("/")[1] for file in FILES}
    assert {"models", "losses", "training", "data", "evaluation", "config"} <= rooms
    assert "jax" in {name.split(".")[0] for name in imports("mova_jax/models/mova.py")}


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
        assert not any(within(name, "jax", "numpy", "flax") for name in imports(file)), file


@pytest.mark.parametrize(
    ("modules", "home"),
    [
        (("orbax",), {"mova_jax/training/checkpoint.py"}),
        (("av",), {"mova_jax/data/ingest/video_reader.py"}),
        (("fsspec",), {"mova_jax/data/storage.py"}),
        (("apache_beam",), {"mova_jax/data/ingest/beam.py"}),
        (("torch", "safetensors", "onnx", "onnxruntime"), set(files_in("weights/", "export/"))),
        (
            ("transformers", "tokenizers"),
            {
                "mova_jax/data/tokenizer.py",
                "mova_jax/export/huggingface.py",
                "mova_jax/export/backends.py",
            },
        ),
        (("wandb", "tensorboardX"), {"mova_jax/utils/metric_log.py"}),
        (("optax",), {f for f in FILES if f.startswith("mova_jax/training/")}),
        (("matplotlib",), set(files_in("report/"))),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, tuple) else None,
)
def test_every_heavy_library_lives_in_one_place(modules, home):
    assert importers(*modules) <= home


def test_mesh_axes_are_named_in_one_file():
    for file in set(FILES) - {"mova_jax/parallel/mesh.py"}:
        used = {node.attr for node in ast.walk(tree_of(file)) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree_of(file)) if isinstance(node, ast.Name)}
        words = {"PartitionSpec", "AxisType", "NamedSharding", "make_mesh", "axis_name", "DATA"}
        called = {"make_mesh"} if within_commands(file) else set()
        assert not used & (words - called), f"{file}: mesh axes belong to mova_jax/parallel/mesh.py"
        assert not any(within(name, "jax.sharding.PartitionSpec") for name in imports(file)), file


def within_commands(file: str) -> bool:
    """Files outside the pure rooms may ask `mesh.make_mesh` for a mesh, without an axis name."""
    return file not in files_in("models/", "losses/", "data/")


@pytest.mark.parametrize("file", FILES + EXAMPLES)
def test_files_are_short_and_say_what_they_are(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= LONGEST, f"{file} has {lines} lines: split it by what its parts are for"
    assert ast.get_docstring(ast.parse(text)), f"{file} has no docstring"


@pytest.mark.parametrize("file", FILES + EXAMPLES)
def test_everything_public_has_a_docstring(file):
    silent = []

    def visit(node, inside=""):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if child.name.startswith("_"):
                continue
            if not ast.get_docstring(child):
                silent.append(inside + child.name)
            if isinstance(child, ast.ClassDef):
                visit(child, f"{inside}{child.name}.")

    visit(tree_of(file))
    assert not silent, f"{file}: no docstring on {', '.join(silent)}"
