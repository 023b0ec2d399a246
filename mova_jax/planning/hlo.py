"""Parses the text of a compiled program: its instructions, and how often each one runs.

The compiler's own counts take a loop body once. Here it counts as often as it runs: by the trip
count in the text, or else by the constant that the loop counter is compared with (`lax.scan` and
`lax.map` count from 0 in steps of 1).
"""

import dataclasses
import re
from collections.abc import Iterator

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a result's shape."""

    dtype: str
    dims: tuple[int, ...]
    memory: int  # memory space; 0 = main memory (HBM)

    @property
    def bytes(self) -> float:
        """Size in bytes; 0 for tokens and other types without numbers."""
        size = _BYTES.get(self.dtype, 0)
        for n in self.dims:
            size *= n
        return size


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]  # of the result; several for a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """The source operation, with its named scopes."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self) -> dict[str, tuple[str, ...]]:
        """The computations it calls, by role."""
        return {
            role: tuple(re.findall(r"[\w.\-]+", names))
            for role, names in _CALLED.findall(self.attributes)
        }


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: the instructions of each computation, in order."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def running(self) -> Iterator[tuple[Instruction, float, str]]:
        """Top-level instructions as `(instruction, times, computation)`.

        Instructions inside a fusion do not run by themselves and are left out.
        """
        yield from self._running(self.entry, 1.0)

    def _running(self, computation: str, times: float):
        for instruction in self.computations[computation]:
            yield instruction, times, computation
            called = instruction.called()
            if instruction.opcode == "while":
                trips = self.trips(instruction)
                for name in called.get("body", ()):
                    yield from self._running(name, times * trips)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                roles = ("to_apply", "calls", "branch_computations", "true_computation",
                         "false_computation")  # fmt: skip
                for name in (name for role in roles for name in called.get(role, ())):
                    yield from self._running(name, times)

    def trips(self, loop: Instruction) -> int:
        """Trip count of a `while`; 1 when the text does not tell."""
        if match := _TRIPS.search(loop.attributes):
            return int(match[1])
        (condition,) = loop.called()["condition"]
        lines = self.computations[condition]
        constants = {
            line.name: int(match[1])
            for line in lines
            if line.opcode == "constant" and (match := re.match(r"(-?\d+)$", line.operands[0]))
        }
        for line in lines:
            if line.is_root and line.opcode == "compare" and "direction=LT" in line.attributes:
                bounds = [constants[name] for name in line.operands if name in constants]
                if len(bounds) == 1:
                    return bounds[0]
        return 1


def parse(text: str) -> Module:
    """Parses the text of a program, as `compiled.as_text()` returns it."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        if name and line.startswith("}"):
            computations[name], name = tuple(lines), ""
        elif name:
            if instruction := _instruction(line):
                lines.append(instruction)
        elif match := _HEADER.match(line):
            name, lines = match[2], []
            entry = name if match[1] else entry
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if not start:
        return None
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, opening, _ = rest.partition("(")
    if not opening:
        return None
    close = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : close]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(filter(None, [inside.strip()]))
    return Instruction(
        start[2], _arrays(shape), opcode, operands, rest[close + 1 :], bool(start[1])
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)


def _arrays(shape: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(n) for n in dims.split(",") if n)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)
