"""
libnftables, which every distribution's nftables is made of, called in this process.

The program ``nft`` would do for reading and writing, but a table can only be owned by a process that lives
(``flags owner``), and ownership hangs on the netlink socket that this library holds open.

Source: ``nftables/libnftables.h``; the interface is that of libnftables.so.1 since 0.9.1.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

_LIBRARY = "libnftables.so.1"

# Protocols, ports and the like as numbers, so that no /etc/protocols decides how a rule reads.
_JSON, _NUMERIC = 1 << 4, (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10)


UNREADABLE = "the listing is not JSON"


class MissingLibraryError(OSError):
    """This host has no libnftables."""


@cache
def _library() -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise MissingLibraryError(str(error)) from None
    found.nft_ctx_new.restype = ctypes.c_void_p
    found.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(found, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(found, name).argtypes = [ctypes.c_void_p]
        getattr(found, name).restype = ctypes.c_char_p
    found.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    found.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    found.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return found


class Nftables:
    """
    One context of the library: one netlink socket. For one thread at a time.

    Raises `MissingLibraryError` where the library is not installed.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError("libnftables cannot be set up")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON | _NUMERIC)

    def close(self) -> None:
        """Give the socket back, and with it the tables it owns."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> tuple[str, str]:
        """What the library answers to *commands* (its language, or JSON), and its complaint; empty if there is none."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        complaint = self._library.nft_ctx_get_error_buffer(self._context) or b""
        told = complaint.decode("utf-8", "replace").strip()
        return output.decode("utf-8", "replace"), (told or "refused without a word") if failed else ""

    def transaction(self, commands: Iterable[str]) -> str:
        """Carry out the JSON *commands*, all or none; the complaint, if there is one."""
        return self.run(f'{{"nftables":[{",".join(commands)}]}}')[1]

    def rehearse(self, commands: Iterable[str]) -> str:
        """What the complaint would be; nothing is changed."""
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            return self.transaction(commands)
        finally:
            self._library.nft_ctx_set_dry_run(self._context, False)

    def listing(self, command: str) -> tuple[list[dict[str, Any]], str]:
        """The objects that *command* lists, and the complaint, if there is one."""
        output, complaint = self.run(command)
        if complaint or not output.strip():
            return [], complaint
        try:
            found: list[dict[str, Any]] = json.loads(output)["nftables"]
        except ValueError:  # nftables 1.0.6 prints a table with flags so (measured)
            return [], UNREADABLE
        return found, ""
