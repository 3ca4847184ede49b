"""
What is rare enough for a general library: making, changing and removing links.

pyroute2 is imported when the first of these is needed, because importing it takes longer than everything else this
program does at start (facts A7): a start that finds all in order has the data plane proven before it is paid for.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
from collections.abc import Awaitable, Callable
from socket import if_nametoindex
from typing import Any

from dsr_agent.kernel.links import arguments
from dsr_agent.kernel.modules import Modules
from dsr_agent.kernel.refusals import explain
from dsr_agent.state.actions import (
    Action,
    AddLink,
    BringUp,
    ChangeLink,
    DeleteLink,
    MarkLink,
    MoveLink,
    RenameLink,
    TakeDown,
)
from dsr_agent.state.errors import Bug, DsrError, Foreign, Unsupported
from dsr_agent.state.model import MODULE_OF_KIND


class LinkWriter:
    """Link changes over one `AsyncIPRoute`, opened when first needed."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._route: Any = None

    def close(self) -> None:
        """Give the sockets back."""
        if self._route is not None:
            self._route.close()
            self._route = None

    async def warm_up(self) -> None:
        """Have pyroute2 imported, aside, so that the first repair does not wait for it."""
        await asyncio.to_thread(importlib.import_module, "pyroute2")

    async def _open(self) -> Any:
        if self._route is None:
            from pyroute2 import AsyncIPRoute

            self._route = AsyncIPRoute(ext_ack=True)
            await self._route.setup_endpoint()
        return self._route

    async def write(self, action: Action) -> DsrError | None:
        """Carry out one link action; what stands in the way, or None. Gone already is success for a deletion."""
        steps: dict[type, Callable[[Any], Awaitable[None]]] = {
            AddLink: self._add,
            ChangeLink: self._change,
            MarkLink: self._mark,
            RenameLink: self._rename,
            MoveLink: self._move,
            BringUp: self._bring_up,
            TakeDown: self._take_down,
            DeleteLink: self._delete,
        }
        step = steps.get(type(action))
        if step is None:
            return Bug(f"no way to {action}")
        try:
            from pyroute2.netlink.exceptions import NetlinkError
        except Exception as error:  # half an upgrade; whatever it raises, this is no reason to end
            return Unsupported(f"cannot {action}: no pyroute2: {error!r}", "install dsr-agent anew, and restart it")
        try:
            await step(action)
        except NetlinkError as error:
            return self._explain(action, error)
        except OSError as error:
            gone = isinstance(action, DeleteLink) and error.errno == errno.ENODEV
            return None if gone else explain(error.errno or 0, f"cannot {action}", str(error.strerror or error))
        except Exception as error:  # pyroute2 raises whatever it likes; one step must not end the agent
            return Bug(f"cannot {action}: {error!r}")
        return None

    def _explain(self, action: Action, error: Any) -> DsrError | None:
        code: int = error.code
        text = str(error.args[1]) if len(error.args) > 1 else ""
        if isinstance(action, DeleteLink) and code == errno.ENODEV:
            return None
        if isinstance(action, AddLink) and code == errno.EOPNOTSUPP:
            return self._modules.diagnose(MODULE_OF_KIND.get(action.link.kind, action.link.kind))
        if isinstance(action, AddLink) and code == errno.EEXIST:
            return Foreign(
                f"cannot {action}: a link that is not seen here holds that place",
                "look for one that was moved to another network namespace, and remove it there",
            )
        return explain(code, f"cannot {action}", text)

    async def _set(self, name: str, **values: Any) -> None:
        # The index is asked for at the last moment: links are recreated under the same name.
        route = await self._open()
        await route.link("set", index=_index(name), **values)

    async def _add(self, action: AddLink) -> None:
        route = await self._open()
        # In its VRF from the first: what came out of it meanwhile would be looked up elsewhere.
        into = {"master": _index(action.link.master)} if action.link.master else {}
        await route.link("add", ifname=action.link.name, group=action.link.group, **into, **arguments(action.link))

    async def _change(self, action: ChangeLink) -> None:
        route = await self._open()
        await route.link("set", index=_index(action.link.name), **arguments(action.link))

    async def _mark(self, action: MarkLink) -> None:
        await self._set(action.name, group=action.group, ifalias=action.alias)

    async def _move(self, action: MoveLink) -> None:
        await self._set(action.name, master=_index(action.vrf) if action.vrf else 0)

    async def _bring_up(self, action: BringUp) -> None:
        await self._set(action.name, state="up")

    async def _take_down(self, action: TakeDown) -> None:
        await self._set(action.name, state="down")

    async def _delete(self, action: DeleteLink) -> None:
        route = await self._open()
        await route.link("del", index=_index(action.name))

    async def _rename(self, action: RenameLink) -> None:
        """Rename while up; kernels before 6.2 refuse that, and lose the packets of the moment it is down."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            await self._set(action.name, ifname=action.to)
        except NetlinkError as error:
            if error.code != errno.EBUSY:
                raise
            await self._set(action.name, state="down")
            await self._set(action.name, ifname=action.to)
            await self._set(action.to, state="up")


def _index(name: str) -> int:
    """The index of the link called *name* at this moment. Raises `OSError` with ENODEV, which libc does not say."""
    try:
        return if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
