"""What an errno of the kernel means for the operator: the one table; nothing above sees an errno."""

from __future__ import annotations

import errno
import os

from dsr_agent.state.errors import Bug, DsrError, Foreign, NotPermitted, NotYet, Transient, Unsupported

_PASSING = {errno.ENOBUFS, errno.ENOMEM, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}


def explain(code: int, doing: str, text: str = "") -> DsrError:
    """Turn errno *code*, met while *doing* something ("cannot add ..."), into the error whose move it is."""
    said = text or os.strerror(code)
    if code in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{doing}: the kernel says {said!r}", "run as root or with CAP_NET_ADMIN")
    if code == errno.EROFS:
        return NotPermitted(
            f"{doing}: /proc/sys is read-only here",
            "let the service write there (ReadWritePaths=/proc/sys/net, or ProtectKernelTunables=no)",
        )
    if code == errno.EEXIST:
        return Foreign(f"{doing}: something else is already in its place")
    if code in (errno.ENODEV, errno.ENXIO, errno.ENOENT):
        return NotYet(f"{doing}: it is not there (any more)")
    if code == errno.EOPNOTSUPP:
        return Unsupported(f"{doing}: this kernel does not support it ({said})")
    if code in _PASSING:
        return Transient(f"{doing}: {said}")
    return Bug(f"{doing}: the kernel says {said!r} (errno {code})")
