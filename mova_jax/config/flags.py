"""The one parser of `--config=FILE[:ARGUMENT] --config.key=value`.

    args, flags, config = parse(make_parser("python -m mova_jax.main", __doc__), sys.argv[1:])

Nothing here loads JAX, so a command checks its flags before anything takes seconds.
"""

import argparse
import ast
import importlib.util
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mova_jax.config.build import converted, flatten, from_config_dict
from mova_jax.config.errors import ConfigError, nearest
from mova_jax.config.schema import KEYS, SECTIONS, Config
from mova_jax.config.upgrade import DROPPED
from mova_jax.utils.command_line import command_parser

_INDENT = {"initial_indent": 6 * " ", "subsequent_indent": 6 * " "}
_BOOLS = {"true": True, "1": True, "": True, "false": False, "0": False}


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for the other flags of a command, whose `--help` also has those of the config."""
    parser = command_parser(command, description)
    add = parser.add_argument
    add("--config", metavar="FILE[:ARGUMENT]", help="a config file, such as configs/base.py")
    add("--config.KEY", metavar="VALUE", help="sets any key of the configuration")
    add("--help_config", action="store_true", help="print every key with its value, and exit")
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, "ConfigFlags", Config]:
    """Parses a command line.

    Args:
        parser: from `make_parser`.
        argv: the words after the command.

    Returns:
        The other flags, those of the configuration, and the configuration.

    Raises:
        ConfigError: with all problems at once.
        SystemExit: after `--help`, `--help_config`, and for an ill-typed flag of the parser.
    """
    flags, words = ConfigFlags.take(argv)
    args, unknown = parser.parse_known_args(words)
    unknown = [f"got {w!r}, expected a flag of --help or --config.key=value" for w in unknown]
    try:
        config = flags.load()
    except ConfigError as error:
        raise ConfigError(error.problems + unknown) from None
    if unknown:
        raise ConfigError(unknown)
    if args.help_config:
        print(describe(config))
        parser.exit()
    return args, flags, config


class ConfigFlags(NamedTuple):
    """The flags of a command line that make its configuration."""

    path: str  # of the config file; '' without --config
    argument: str  # the text after the colon
    overrides: dict[str, str]  # the text of each value by dotted key

    @property
    def file(self) -> str:
        """`FILE[:ARGUMENT]`, as it was given."""
        return f"{self.path}:{self.argument}" if self.argument else self.path

    @classmethod
    def take(cls, argv: Sequence[str]) -> tuple["ConfigFlags", list[str]]:
        """Separates these flags from the other words of a command line.

        A value follows `=` or is the next word; a bool without one is True.
        """
        given, overrides, rest = "", {}, []
        words = list(argv)
        while words:
            word = words.pop(0)
            name, equals, value = word.partition("=")
            if name != "--config" and not name.startswith("--config."):
                rest.append(word)
                continue
            if not equals and words and not words[0].startswith("--"):
                value = words.pop(0)
            if name == "--config":
                given = value
            else:
                overrides[name.removeprefix("--config.")] = value
        path, _, argument = given.partition(":")
        return cls(path, argument, overrides), rest

    def load(self) -> Config:
        """The checked configuration of the file with the keys that the flags change.

        Raises:
            ConfigError: with all problems at once.
        """
        if not self.path:
            raise ConfigError(["--config is missing; for example --config=configs/base.py"])
        config = load(self.file)
        values, problems = _parse_overrides(self.overrides)
        if name := self.overrides.get("objective"):
            problems.append(
                "objective is the name of a preset: choose one by "
                f"--config={self.path}:objective={name}"
            )
        if problems:
            raise ConfigError(problems)
        config.update_from_flattened_dict(values)
        return from_config_dict(config)


def load(flag: str) -> ConfigDict:
    """The configuration of `FILE[:ARGUMENT]`: what `get_config(ARGUMENT)` in that file returns.

    Raises:
        ConfigError: when there is no such file, it fails, or it does not know the argument.
    """
    path, _, argument = flag.partition(":")
    if not Path(path).is_file():
        raise ConfigError([f"--config: there is no file {path}"])
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec) if spec else None
    try:
        if module is None:
            raise ImportError("its name does not end in .py")
        spec.loader.exec_module(module)
        made = module.get_config(*([argument] if argument else []))
        if not isinstance(made, ConfigDict):
            raise TypeError(f"get_config returned {type(made).__name__}, expected a ConfigDict")
    except ConfigError:
        raise
    except Exception as error:  # of code that is the user's own
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(path).absolute()]
        place = f", line {lines[-1]}" if lines else ""
        raise ConfigError([f"--config: {path}{place}: {type(error).__name__}: {error}"]) from error
    return made


def parse_argument(arg: str, **defaults: Any) -> dict[str, Any]:
    """Parses a config's argument string, `key=value,key=value`, by the types of the defaults.

    Raises:
        ConfigError: for a key that is not among the defaults or a value of another type.
    """
    values, problems = dict(defaults), []
    for item in filter(None, arg.split(",")):
        key, _, text = item.partition("=")
        if key not in defaults:
            advice = nearest(key, defaults)
            if "=" not in item and not advice:
                advice = "; a value with a comma goes by a flag, as in --config.data.source=FOLDER"
            problems.append(f"unknown argument {key!r} in {arg!r}{advice}")
            continue
        try:
            values[key] = type(defaults[key])(text)
        except ValueError:
            kind = type(defaults[key]).__name__
            problems.append(f"argument {key}: got {text!r}, expected {kind}")
    if problems:
        raise ConfigError(problems)
    return values


def parse_overrides(texts: dict[str, str]) -> dict[str, Any]:
    """Parses the values of `--config.key=value` flags, each by the type of its key.

    Args:
        texts: the text of each value by dotted key.

    Raises:
        ConfigError: with all keys that do not exist and all values of another type.
    """
    values, problems = _parse_overrides(texts)
    if problems:
        raise ConfigError(problems)
    return values


def _parse_overrides(texts: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values by dotted key, and the problems."""
    values, problems = {}, []
    for key, text in texts.items():
        if key in DROPPED:
            problems.append(f"{key} is no key any more: it is always {DROPPED[key]}")
            continue
        if key not in KEYS:
            problems.append(f"unknown key {key}{nearest(key, KEYS)}")
            continue
        kind = type(KEYS[key].default)
        try:
            values[key] = _parse(text, kind)
        except (ValueError, SyntaxError):
            problems.append(f"{key}: got {text!r}, expected {kind.__name__}")
    return values, problems


def _parse(text: str, kind: type) -> Any:
    """The value of that type; ValueError or SyntaxError when the text is of another one."""
    if kind is str:
        return text
    if kind is bool and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    value = converted(ast.literal_eval(text), kind)
    if type(value) is not kind:
        raise ValueError
    return value


def describe(config: Config) -> str:
    """Every key by section: its value, what it does, its type and its legal values."""
    values, lines = flatten(config), []
    for section, cls in SECTIONS.items():
        lines += ["", f"{section or 'config'}: {cls.__doc__}"]
        for name in (name for name in KEYS if name.rpartition(".")[0] == section):
            kind = ", ".join(filter(None, (type(KEYS[name].default).__name__, KEYS[name].legal)))
            lines.append(f"  {name} = {values[name]!r}")
            lines += textwrap.wrap(f"{KEYS[name].help} ({kind})", 100, **_INDENT)
    return "\n".join(lines[1:])
