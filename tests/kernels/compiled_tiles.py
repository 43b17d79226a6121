"""The machine code of the kernels that multiply on the matrix unit, as LLVM makes it for a processor that has one.

LLVM compiles for any processor of the family, so this needs none with the unit. Run as a script, in a process of its
own: it writes, of each kernel, `NAME.ll` (LLVM's instructions, optimised) and `NAME.s` (the processor's) into a folder.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from llvmlite import binding


def write(folder):
    """Compile each kernel whose products are the unit's."""
    import emulated_tiles  # from beside this script
    from numba.core import config

    config.CPU_NAME, config.CPU_FEATURES = "sapphirerapids", ""
    emulated_tiles.pretend()
    attention, matmul = (import_module(f"tinyldm.kernels.{name}") for name in ("attention", "matmul"))
    from tinyldm.kernels.compile import numba_type

    for name, kernel in {"matmul": matmul.KERNELS[matmul.PAIRS], "attention": attention.KERNELS[1][1]}.items():
        hints = get_type_hints(kernel.function, include_extras=True)
        result, *arguments = map(numba_type, (hints.pop("return"), *hints.values()))
        dispatcher = kernel._dispatcher()
        dispatcher.compile(result(*kernel.first, *arguments))
        library = next(iter(dispatcher.overloads.values())).library
        (folder / f"{name}.ll").write_text(library.get_llvm_str())
        (folder / f"{name}.s").write_text(library.get_asm_str())


def states(function, begin, end):
    """What is called or returned from, and whether the unit is configured there, on every way through a function.

    `function` is a `ValueRef`; pairs of a name (or "ret") and of a truth value.
    """
    blocks = {block: list(block.instructions) for block in function.blocks}
    todo, found, known = [(next(iter(blocks)), False)], set(), set()
    while todo:
        block, configured = todo.pop()
        if (block, configured) in known:
            continue
        known.add((block, configured))
        for instruction in blocks[block]:
            what = list(instruction.operands)
            if instruction.opcode == "call" and what[-1].name in (begin, end):
                found.add((what[-1].name, configured))
                configured = what[-1].name == begin
            elif instruction.opcode in ("call", "ret"):
                found.add((what[-1].name if instruction.opcode == "call" else "ret", configured))
            todo += [(to, configured) for to in what if to.value_kind == binding.ValueKind.basic_block]
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]))
