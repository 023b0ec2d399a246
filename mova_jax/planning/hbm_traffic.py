"""Counts the bytes that a compiled program moves between main memory (HBM) and the cores.

Each top-level instruction reads its operands and writes its result once. Arrays in faster memory
(VMEM) cost nothing, a fusion that slices an operand reads only the slices, and one that updates
part of a buffer writes only that part. Repeated reads of an operand and padding to tiles are not
counted, so this is a lower bound.
"""

from mova_jax.planning.hlo import Array, Instruction, Module

HBM = 0
# Opcodes that move nothing: names, addresses, and the ends of asynchronous operations.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "optimization-barrier",
    "add-dependency", "get-dimension-size", "domain", "async-done", "async-update", "copy-done",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}


def bytes_moved(module: Module) -> float:
    """Bytes between a device's main memory and its cores, in one step."""
    shapes: dict[str, dict[str, tuple[Array, ...]]] = {
        name: {line.name: line.arrays for line in lines}
        for name, lines in module.computations.items()
    }
    return sum(
        times * _moved(module, instruction, shapes[computation])
        for instruction, times, computation in module.running()
        if instruction.opcode not in _FREE and not instruction.opcode.endswith("-done")
    )


def _moved(module: Module, instruction: Instruction, known: dict[str, tuple[Array, ...]]) -> float:
    operands = [known.get(name, ()) for name in instruction.operands]
    match instruction.opcode:
        case "fusion":
            (name,) = instruction.called()["calls"]
            return _fused(module, module.computations[name], operands, instruction.arrays)
        case "custom-call" if "AllocateBuffer" in instruction.attributes:
            return 0.0
        case "custom-call" if "__cu" in instruction.attributes:
            # The last result of cuBLAS and cuDNN is their workspace.
            return sum(map(_hbm, operands)) + _hbm(instruction.arrays[:-1] or instruction.arrays)
        case "slice-start":
            # Its result is (the operand, the slice, a token).
            part = instruction.arrays[1]
            return part.bytes * (bool(_hbm(operands[0])) + (part.memory == HBM))
        case "dynamic-update-slice":
            return 2 * _hbm(operands[1])
        case opcode if opcode in _SLICES:
            return 2 * _hbm(instruction.arrays)
        case opcode if opcode.endswith("-start"):
            return _hbm(instruction.arrays)  # both what it reads and what it writes
    return sum(map(_hbm, operands)) + _hbm(instruction.arrays)


def _fused(module: Module, lines, operands, results: tuple[Array, ...]) -> float:
    """Bytes that a fusion reads of each operand, and writes."""
    updates = [line for line in lines if line.opcode == "dynamic-update-slice"]
    shapes = {line.name: line.arrays for line in lines}
    total = 0.0
    for line in lines:
        if line.opcode == "parameter":
            whole = _hbm(operands[int(line.operands[0])])
            total += min(whole, _read(module, lines, line.name, whole)) if whole else 0.0
    for result in results:
        if result.memory != HBM:
            continue
        parts = [line for line in updates if line.arrays[0].dims == result.dims]
        written = sum(a.bytes for part in parts for a in shapes.get(part.operands[1], ()))
        total += written if parts else result.bytes
    return total


def _read(module: Module, lines, name: str, whole: float) -> float:
    """Bytes that the instructions of a fusion read of one value, of `whole` bytes.

    The slice may be in a fusion inside the fusion, as that of a layer's stored values is, which
    goes straight into a matrix product.
    """
    readers = [line for line in lines if name in line.operands]
    total = 0.0 if readers else whole
    for reader in readers:
        first = reader.operands[0] == name and name not in reader.operands[1:]
        if first and reader.opcode in _SLICES:
            total += sum(array.bytes for array in reader.arrays)
        elif reader.opcode == "fusion":
            (inner,) = (module.computations[called] for called in reader.called()["calls"])
            places = [i for i, operand in enumerate(reader.operands) if operand == name]
            for line in inner:
                if line.opcode == "parameter" and int(line.operands[0]) in places:
                    total += _read(module, inner, line.name, whole)
        elif not (first and reader.opcode == "dynamic-update-slice"):
            return whole
    return total


def _hbm(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays if array.memory == HBM)
