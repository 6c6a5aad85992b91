"""One way to compile: without the GIL, without Python's checks of division, kept on disk where there is a place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

_F = TypeVar("_F", bound="Callable[..., Any]")


def compiled(function: _F) -> _F:
    """Compile on first call, for the types of that call.

    The code is kept beside the package, else in the user's cache folder, else (neither can be written) in this
    process only. Floating point stays strict: no reassociation and no fused multiply-add, which would change last bits.
    """
    try:
        made: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        made = numba.njit(nogil=True, error_model="numpy")(function)
    return cast("_F", made)
