#!/bin/sh
# What the machine runs, once for each boot: sh tests/installed/guest.sh PYTEST-ARGUMENTS. The first boot ends with a
# reboot, the second with the results of both. The Python packages of the tests are put where the package under test
# cannot see them: it is installed with nothing else.
set -eu
kept=/var/lib/lab
if [ ! -d $kept ]; then
	mkdir -p $kept
	cp -a . $kept/repo
	mv /usr/local/lib/python3*/dist-packages $kept/python
	boot=first
else
	boot=second
fi
export PYTHONPATH="$kept/repo:$kept/python"
cd $kept/repo
status=0
python3 -m pytest -q --timeout=600 tests/installed/test_${boot}_boot*.py --junitxml="$kept/junit-$boot.xml" "$@" || status=$?
if [ $boot = first ]; then
	echo $status >$kept/status
	mkdir -p /run/systemd/system/lab.service.d
	printf '[Service]\nExecStopPost=\n' >/run/systemd/system/lab.service.d/reboot.conf # it powers off otherwise
	systemctl daemon-reload
	echo "rebooting"
	systemctl reboot
	exec sleep 600
fi
mkdir -p "$OLDPWD/out"
cp $kept/junit-*.xml "$OLDPWD/out"
read -r before <$kept/status
[ "$before" = 0 ] || status=$before
exit "$status"
