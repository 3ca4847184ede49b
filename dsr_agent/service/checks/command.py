"""
A command says whether the application answers: exit code 0 is good, and the first line that it prints is the reason.

It runs without a shell, without the agent's capability and without its environment; when it has ended, or its time is
over, its process group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.wording import printable
from dsr_agent.service.checks.asking import CannotAskError, Target
from dsr_agent.truth.checks import Answer, FailureReason

_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4  # linux/prctl.h
_MOST_OUTPUT = 4096
_LONGEST_REASON = 200


def _without_capabilities() -> None:
    """What this thread starts inherits no capability (the ambient set is one for each thread, capabilities(7))."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)


# One thread that starts all of them: forking takes a while, and the loop does not wait for it.
_starter = ThreadPoolExecutor(1, "commands", _without_capabilities)


async def ask(check: CheckSettings, target: Target) -> Answer:
    """See `asking.Asker`."""
    program = check.command[0]
    process = await _started(check, target)
    with _held(process):
        try:
            async with asyncio.timeout(check.timeout):
                said = await _end(process)
        except TimeoutError:
            return Answer(FailureReason.TIMEOUT, f"{program} did not end within {check.timeout:g} s")
    code = process.returncode
    if code == 0:
        return Answer()
    first = next((line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()), "")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return Answer(FailureReason.COMMAND, printable(first[:_LONGEST_REASON]) or f"{program} {how}")


async def _started(check: CheckSettings, target: Target) -> subprocess.Popen[bytes]:
    words = {"{vip}": str(target.ip), "{service}": target.service}
    argv = list(check.command)
    for hole, filling in words.items():
        argv = [word.replace(hole, filling) for word in argv]
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    environment |= {"DSR_VIP": str(target.ip), "DSR_SERVICE": target.service, "DSR_VRF": target.vrf}
    starting = asyncio.get_running_loop().run_in_executor(_starter, _start, argv, environment)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_kill_started)
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its words cannot be passed on"
        raise CannotAskError(f"{argv[0]} cannot be started: {why}") from None


def _start(argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd="/",
        start_new_session=True,
        bufsize=0,
    )


@contextlib.contextmanager
def _held(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Nothing of it is left afterwards."""
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    try:
        yield
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Its group; it has not been waited for, so nobody else has the number."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout:
        process.stdout.close()
    if process.poll() is None:  # who waits for a disk is not killed before he has it
        threading.Thread(target=process.wait, name="waiting for a command", daemon=True).start()


def _kill_started(started: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not started.cancelled() and not started.exception():
        _kill(started.result())


async def _end(process: subprocess.Popen[bytes]) -> bytes:
    """Wait until it ends; the beginning of what it said. What comes after that is read and left aside."""
    assert process.stdout
    loop = asyncio.get_running_loop()
    pipe, handle = process.stdout.fileno(), os.pidfd_open(process.pid)
    said = bytearray()
    ended = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return
        said.extend(data[: max(_MOST_OUTPUT - len(said), 0)])
        if not data:
            loop.remove_reader(pipe)

    loop.add_reader(pipe, read)
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
        read()
    finally:
        loop.remove_reader(handle)
        loop.remove_reader(pipe)
        os.close(handle)
    return bytes(said)
