"""What the documents say: commands, files, keys, presets and links that are there."""

import ast
import contextlib
import importlib.util
import inspect
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from configs.base import get_config
from mova_jax.config import ConfigError, flatten, from_config_dict, parse_overrides
from mova_jax.config.presets import MODELS, OBJECTIVES
from mova_jax.config.upgrade import DROPPED
from mova_jax.data.annotations import FIELDS, read_annotations

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/data.md",
    "docs/method.md",
    "docs/plan.md",
    "docs/weights.md",
    "docs/evaluation.md",
    "docs/pods.md",
    "docs/search.md",
    "docs/results.md",
    "docs/reliability.md",
    "launch/README.md",
)
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}
BASE = flatten(from_config_dict(get_config()))
SECTIONS = {name.split(".")[0] for name in BASE if "." in name}
KEY = re.compile(rf"`((?:{'|'.join(sorted(SECTIONS))})(?:\.(?!py`)[a-z]\w*)+)(?:=([^`]*))?`")


def section(title):
    """The text under a `##` heading of the README."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    return found


def commands(text):
    """Lines of the shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def constants(path):
    """The constants of a module, read and not imported: its imports take seconds."""
    found = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign):
            with contextlib.suppress(ValueError):  # a value that is computed
                found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def keys_named():
    return [(name, *match) for name, text in TEXTS.items() for match in KEY.findall(text)]


def anchors(path):
    """The anchors that headings get: lower case, without punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_sections_come_in_the_order_in_which_people_read():
    assert re.findall(r"^## (.+)$", README, re.M) == [
        "Two commands",
        "What you will see",
        "Your own videos",
        "Evaluate any model",
        "Search your own videos",
        "Change what is trained",
        "Weights in, weights out",
        "Where to go next",
        "Licence and citation",
    ]
    assert "docs/overview.svg" in README.split("## ")[0]
    assert len(README.splitlines()) <= 175


def test_the_two_commands_come_first():
    assert commands(README)[:2] == ["bash launch/run.sh", "bash launch/test.sh"]


def test_there_is_one_place_for_measured_figures():
    begin, end = "<!-- results:begin -->\n", "<!-- results:end -->\n"
    assert README.count(begin) == README.count(end) == 1
    assert begin in section("What you will see").split(end)[0]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_name_what_exists(name):
    text = TEXTS[name]
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for script in re.findall(r"bash (\w\S+)", " ".join(commands(text))):
        assert (ROOT / script).is_file(), script
    for path in re.findall(r"--config=(\w[\w/.]+)", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("command", [c for c in commands(README) if "config" in c])
def test_config_flags_are_accepted(command):
    argument = re.search(r"--config=[\w/.]+:(\S+)", command)
    config = get_config(argument[1] if argument else "")
    from_config_dict(config)
    overrides = dict(re.findall(r"--config\.([\w.]+)=(\S+)", command))
    parse_overrides(overrides)


def test_arguments_in_prose_are_accepted():
    for argument in re.findall(r"`configs/base\.py:([^`]+)`", README):
        get_config(argument)
    named = re.search(r"after the colon takes (.*?);", README, re.S)[1]
    known = inspect.getsource(get_config)
    for key in re.findall(r"`(\w+)`", named):
        assert re.search(rf"\b{key}=", known), key


def is_legal(key, value, objective) -> bool:
    # Of the largest recipe that the documents speak of.
    config = get_config(f"objective={objective},batch=32768")
    config.update_from_flattened_dict({"model.dtype": "bfloat16", key: value})
    try:
        from_config_dict(config)
    except ConfigError:
        return False
    return True


def test_keys_exist_and_values_are_legal():
    assert len(keys_named()) > 30
    for document, key, value in keys_named():
        if document == "CHANGELOG.md" and key in DROPPED:
            continue
        assert key in BASE, f"{document} names {key}"
        if value:
            typed = value if isinstance(BASE[key], str) else ast.literal_eval(value)
            rows = "parts_ordered", "full", "paper"
            assert any(is_legal(key, typed, row) for row in rows), key


def test_the_fidelity_table_shows_the_values_of_the_base():
    rows = TEXTS["docs/method.md"].split("Fidelity\n")[1].splitlines()
    full = flatten(from_config_dict(get_config("objective=full")))
    named = 0
    for row in rows:
        of_row = full if "| `full`: " in row else BASE
        for key, value in KEY.findall(row):
            assert value in ("", str(of_row[key])), f"{key} is {of_row[key]}"
            named += 1
    assert named > 20


def test_presets_are_all_of_them():
    rows = re.search(r"\| `objective=` \|.*?\n\n", TEXTS["docs/method.md"], re.S)[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", rows, re.M)[1:]
    assert [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)] == [*OBJECTIVES]
    sizes = re.search(r"`model=` is (.*?):", README)[1]
    assert re.findall(r"`(\w+)`", sizes) == [*MODELS]


def test_the_fields_of_the_jsonl_are_those_that_are_read():
    rows = re.findall(r"^\| (`[^|]+) \|", section("Your own videos"), re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    listed = re.findall(r"^  (\w+(?:, \w+)*)  ", FIELDS, re.M)
    assert sorted(named) == sorted(name for cell in listed for name in cell.split(", "))


def test_the_lines_of_the_jsonl_are_usable(tmp_path):
    lines = re.search(r"```json\n(.*?)```", README, re.S)[1]
    (tmp_path / "captions.jsonl").write_text(lines)
    reading = read_annotations(tmp_path / "captions.jsonl")
    assert len(reading.items) == len(lines.splitlines())
    assert not reading.skipped and not reading.warnings
    assert not any(item.warnings for item in reading.items)


def test_the_workdir_is_what_is_promised():
    workdir = constants("mova_jax/training/workdir.py")
    log = constants("mova_jax/utils/metric_log.py")
    rows = re.findall(r"^\| `([^`]+)` \|", section("What you will see"), re.M)
    names = [workdir["CONFIG"], log["METRICS_FILE"], workdir["REPORT"]]
    folders = [workdir["FOLDER"], "plots"]
    folders += [workdir["RANKS"], log["TENSORBOARD_FOLDER"]]
    assert sorted(rows) == sorted(names + [f"{folder}/" for folder in folders])
    free = re.findall(r"`(data\.\w+)` and the like", section("What you will see"))
    assert free and set(free) <= set(workdir["RESUMABLE_KEYS"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_resolve(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_in_backticks_exist(name):
    roots = (ROOT, ROOT / "mova_jax")
    for path in re.findall(r"`([\w/]+/\w[\w/]*\.(?:py|sh|txt|md))`", TEXTS[name]):
        assert any((root / path).is_file() for root in roots), path


def test_the_figure_is_sound_and_needs_nothing_else():
    text = (ROOT / "docs" / "overview.svg").read_text()
    svg = ElementTree.fromstring(text)
    assert svg.get("viewBox") == f"0 0 {svg.get('width')} {svg.get('height')}"
    assert "href" not in text and "<script" not in text
    assert svg.find("{*}title") is not None and svg.find("{*}desc") is not None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_claim_is_made_that_is_not_ours(name):
    assert not re.search(r"state[ -]of[ -]the[ -]art|outperform", TEXTS[name], re.I)
