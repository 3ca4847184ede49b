"""What all tests share: a test may be a coroutine, and gets an event loop of its own."""

from __future__ import annotations

import asyncio
import inspect

import pytest

# Its tests are imported by three modules that run them; failing, they explain themselves like all others.
pytest.register_assert_rewrite("tests.fake.contract")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
