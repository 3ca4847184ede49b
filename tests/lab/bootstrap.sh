# shellcheck shell=sh
# Sourced by tests/run and tests/demo, in the repository's root: makes the Python environment of the tests in the cache
# directory, installing with apt-get what that needs, and sets $python to its interpreter.

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

apt_install() { # apt_install PACKAGE...: what is missing and cannot be installed is said by name
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		die "missing: $*. Install it as root: apt-get install $*"
	fi
	say "installing $* (apt-get)"
	if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$cache/apt.log" 2>&1; then
		if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } \
			>"$cache/apt.log" 2>&1; then
			tail -n 15 "$cache/apt.log" >&2
			die "apt-get could not install $*"
		fi
	fi
}

find_python() { # the first Python that is new enough; $1 is a statement that it must also be able to run
	for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
		if "$candidate" -c "import sys; assert sys.version_info >= (3, 11); $1" >/dev/null 2>&1; then
			command -v "$candidate"
			return
		fi
	done
	return 1
}

make_venv() {
	base=$(find_python 'import venv, ensurepip') || {
		find_python pass >/dev/null || die "Python 3.11 or newer is missing (Debian 12 and later have it: apt-get install python3)"
		apt_install python3-venv
		base=$(find_python 'import venv, ensurepip') || die "python3 -m venv does not work here: apt-get install python3-venv"
	}
	say "making the Python environment of the tests (once, about 15 s)"
	rm -rf "$venv"
	"$base" -m venv "$venv" || die "python3 -m venv failed"
	if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
		-r tests/requirements.lock >"$cache/pip.log" 2>&1; then
		tail -n 15 "$cache/pip.log" >&2
		die "pip could not install tests/requirements.lock"
	fi
	touch "$venv/complete"
}

PATH=$PATH:/usr/sbin:/sbin
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dsr-agent-lab
venv=$cache/venv-$(sha256sum tests/requirements.lock | cut -c1-16)
mkdir -p "$cache" || die "cannot write to $cache"
command -v git >/dev/null || apt_install git
# The guard's library and its program, and what the tests in namespaces ask with; without root the tests that need them
# say so and are skipped.
if [ "$(id -u)" -eq 0 ]; then
	command -v nft >/dev/null || apt_install nftables
	command -v ip >/dev/null || apt_install iproute2
	command -v ping >/dev/null || apt_install iputils-ping
fi
if [ ! -e "$venv/complete" ] || ! "$venv/bin/python" -c "import pluggy" 2>/dev/null; then
	(
		flock 9
		[ -e "$venv/complete" ] && "$venv/bin/python" -c "import pluggy" 2>/dev/null || make_venv
	) 9>"$cache/venv.lock" || exit 1
fi
touch "$venv"
# shellcheck disable=SC2034
python=$venv/bin/python
