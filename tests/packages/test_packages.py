"""What is built, before anybody installs it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dsr_agent import cli
from dsr_agent.config import settings
from dsr_agent.config.check_settings import CheckSettings
from tests.lab.machine.job import REPOSITORY
from tests.packages.conftest import Built, build

pytestmark = pytest.mark.timeout(300)  # whichever is first has everything built, and some build more

VENDOR = Path("usr/lib/dsr-agent/vendor")
PYTHONS = ("311", "312", "313", "314")
# What an rpm built without a distribution's macros and signing key, of text pages that are packed already, is told.
RPMLINT_KNOWN = (
    "no-manual-page-for-binary",
    "no-signature",
    "no-url-tag",
    "invalid-license MIT",
    "manpage-not-compressed",
    "incoherent-version",
)


def printed(*argv: str, **environment: str) -> str:
    """What a command prints; its complaint is the failure."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(path: Path) -> str:
    """Its bytes, short."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_source_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    again = build(tmp_path, TZ="Pacific/Chatham", LANG="C", HOSTNAME="elsewhere", DSR_AGENT_CONFIG="/tmp/other.toml")
    for first in (built.deb, built.rpm, built.wheel):
        assert digest(again / first.name) == digest(first), first.name


def test_lintian_has_nothing_to_say(built: Built) -> None:
    printed("lintian", "--allow-root", "--fail-on=error,warning", str(built.deb))


def test_rpmlint_has_nothing_new_to_say(built: Built) -> None:
    done = subprocess.run(["rpmlint", str(built.rpm)], capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if re.search(r": [EW]: ", line)]
    assert [line for line in said if not any(known in line for known in RPMLINT_KNOWN)] == []


def test_the_control_data(built: Built) -> None:
    field = dict(re.findall(r"(?m)^(\S+): (.*)$", printed("dpkg-deb", "-f", str(built.deb))))
    assert re.search(r'__version__ = "(.+)"', (REPOSITORY / "dsr_agent/__init__.py").read_text())
    needed = {re.split(r"[ (]", part)[0] for part in field["Depends"].split(", ")}
    assert needed == {"python3", "python3-systemd", "systemd", "libc6", "libnftables1"}
    assert printed("dpkg-deb", "-I", str(built.deb), "conffiles") == "/etc/dsr-agent.toml\n"


def test_everything_belongs_to_root_and_nothing_is_executable_by_accident(built: Built) -> None:
    executable = set()
    for line in printed("dpkg-deb", "-c", str(built.deb)).splitlines():
        mode, owner, *_, path = line.split()
        assert owner == "root/root"
        assert mode[5] == "-", line
        assert mode[8] == "-", line
        if mode.startswith("-") and "x" in mode:
            executable.add(path)
    assert executable == {"./usr/bin/dsr-agent", "./usr/share/python3/runtime.d/dsr-agent.rtupdate"}


def test_what_is_compiled_is_there_for_every_python(built: Built) -> None:
    libraries = {path.name for path in (built.tree / VENDOR).rglob("*.so")}
    assert libraries == {f"_pydantic_core.cpython-{python}-x86_64-linux-gnu.so" for python in PYTHONS}
    assert not list(built.tree.rglob("*.pyc"))


def test_it_runs_with_nothing_but_itself(built: Built) -> None:
    library = str(built.tree / "usr/lib/dsr-agent")
    program = (built.tree / "usr/bin/dsr-agent").read_text()
    assert program.startswith("#!/usr/bin/python3 -I\n")
    program = "import sys; sys.dont_write_bytecode = True\n" + program.replace("/usr/lib/dsr-agent", library)
    shipped = built.tree / "etc/dsr-agent.toml"
    radius = program.replace("from dsr_agent", "import dsr_agent.service.checks.radius\nfrom dsr_agent")
    assert radius != program
    for python in {sys.executable, "/usr/bin/python3"}:
        argv = [python, "-I", "-S", "-c", program, "check", "--config", str(shipped)]
        assert "0 tunnels, 0 VIPs" in printed(*argv)
        argv = [python, "-I", "-S", "-c", radius, "check", "--config", str(shipped)]
        assert "0 tunnels, 0 VIPs" in printed(*argv), "pyrad is brought along, and needs nothing that is not"


def test_the_other_architecture_can_be_built(tmp_path: Path) -> None:
    build(tmp_path, "deb", "--arch", "arm64")
    (deb,) = tmp_path.glob("*_arm64.deb")
    listed = printed("dpkg-deb", "-c", str(deb))
    assert {f"cpython-{python}-aarch64" in listed for python in PYTHONS} == {True}
    assert "x86_64" not in listed


def test_the_rpm_brings_the_same(built: Built) -> None:
    listed = set(printed("rpm", "-qlp", str(built.rpm)).splitlines())
    ours = {f"/{path.relative_to(built.tree)}" for path in built.tree.rglob("*") if path.is_file()}
    only_debian = {path for path in ours if "zsh" in path or "runtime.d" in path or path.endswith("/changelog.gz")}
    assert ours - only_debian <= listed
    assert printed("rpm", "-qpc", str(built.rpm)) == "/etc/dsr-agent.toml\n"


def test_the_wheel_brings_the_program(built: Built, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
    printed(*pip, "--target", str(tmp_path), str(built.wheel))
    version = printed(sys.executable, "-m", "dsr_agent", "--version", PYTHONPATH=str(tmp_path))
    assert version == printed(sys.executable, "-m", "dsr_agent", "--version", PYTHONPATH=str(REPOSITORY))
    assert (tmp_path / "bin/dsr-agent").exists()


def test_the_lock_is_what_the_project_asks_for() -> None:
    pinned = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (REPOSITORY / "packaging/requirements.lock").read_text()))
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, version in (re.split(r"\s*==\s*", line) for line in asked):
        assert pinned[name] == version


@pytest.mark.parametrize("script", sorted((REPOSITORY / "packaging/scripts").iterdir()), ids=lambda path: path.name)
def test_maintainer_scripts_stop_at_the_first_failure(script: Path) -> None:
    printed("sh", "-n", str(script))
    assert "\nset -eu\n" in script.read_text()


# --- what people read -----------------------------------------------------------------------------------------------


def verbs() -> set[str]:
    """Those of the command line."""
    (chosen,) = [action for action in cli.parser()._actions if action.dest == "verb"]
    return set(chosen.choices or ())


def test_the_manual_knows_every_verb(built: Built) -> None:
    page = printed("zcat", str(built.tree / "usr/share/man/man8/dsr-agent.8.gz"))
    assert {verb for verb in verbs() if not re.search(rf"(?m)^\\fB{verb}\\fR$", page)} == set()


def test_the_manual_knows_every_key_of_the_file(built: Built) -> None:
    page = printed("zcat", str(built.tree / "usr/share/man/man5/dsr-agent.toml.5.gz"))
    models = (settings.TunnelSettings, settings.VipSettings, settings.AgentSettings, settings.HttpSettings)
    keys = {name for model in (*models, CheckSettings) for name in model.model_fields}
    assert {key for key in keys if f"\\fB{key}\\fR" not in page} == set()


def test_the_shell_completes(built: Built) -> None:
    file = built.tree / "usr/share/bash-completion/completions/dsr-agent"
    ask = f'. {file}; COMP_WORDS=(dsr-agent ""); COMP_CWORD=1; _shtab_dsr_agent; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert verbs() <= set(printed("bash", "-c", ask).split())
    assert (built.tree / "usr/share/zsh/vendor-completions/_dsr-agent").read_text().startswith("#compdef dsr-agent\n")
