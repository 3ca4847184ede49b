"""Which file sets a sysctl, over a made-up root."""

from __future__ import annotations

from pathlib import Path

from dsr_agent.kernel.sysctl_files import settings_of

PATH = "net/ipv4/conf/dsr-ipip/rp_filter"


def write(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(root: Path, path: str = PATH) -> list[tuple[str, int, str]]:
    return [(each.file, each.line, each.value) for each in settings_of(root, path)]


def test_files_go_by_their_names_and_hide_their_namesakes(tmp_path: Path) -> None:
    write(tmp_path, "usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.*.rp_filter = 2\n")
    write(tmp_path, "etc/sysctl.d/60-own.conf", "# net.ipv4.conf.all.rp_filter=1\n-net.ipv4.conf.*.rp_filter=1\n")
    write(tmp_path, "etc/sysctl.d/10-early.conf", "net/ipv4/conf/*/rp_filter=0\n\nkernel.panic = 1\n")
    assert found(tmp_path) == [
        ("/etc/sysctl.d/10-early.conf", 1, "0"),
        ("/usr/lib/sysctl.d/50-default.conf", 1, "2"),
        ("/etc/sysctl.d/60-own.conf", 2, "1"),
    ]
    write(tmp_path, "etc/sysctl.d/50-default.conf", "")
    assert [file for file, _, _ in found(tmp_path)] == ["/etc/sysctl.d/10-early.conf", "/etc/sysctl.d/60-own.conf"]


def test_a_line_that_names_it_goes_above_patterns(tmp_path: Path) -> None:
    write(tmp_path, "etc/sysctl.d/10.conf", "net.ipv4.conf.dsr-ipip.rp_filter = 2\n")
    write(tmp_path, "etc/sysctl.conf", "net.ipv4.conf.*.rp_filter = 1\n")
    assert found(tmp_path)[-1] == ("/etc/sysctl.d/10.conf", 1, "2")


def test_a_link_with_a_dot_is_written_with_slashes(tmp_path: Path) -> None:
    write(tmp_path, "etc/sysctl.d/10.conf", "net/ipv4/conf/a.b/rp_filter = 1\nnet.ipv4.conf.c/d.rp_filter = 1\n")
    assert found(tmp_path, "net/ipv4/conf/a.b/rp_filter") == [("/etc/sysctl.d/10.conf", 1, "1")]
    assert found(tmp_path, "net/ipv4/conf/c.d/rp_filter") == [("/etc/sysctl.d/10.conf", 2, "1")]


def test_what_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc/sysctl.d/dir.conf").mkdir(parents=True)
    assert found(tmp_path) == []
