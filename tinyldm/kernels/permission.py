"""Asking the system for the matrix unit.

The unit (Intel AMX) has 8 KB of state, which Linux saves for a process only after it has asked; without that, its first
instruction ends the process. Threads and forked children inherit the permission.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

SYSTEM_CALL, REQUEST, TILE_DATA = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA on x86-64


@cache
def permitted() -> bool:
    """Whether the system lets this process use the matrix unit; asked once."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    system_call = getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)
    return system_call is not None and system_call(SYSTEM_CALL, REQUEST, TILE_DATA) == 0
