#!/bin/sh
# Runs one job inside a guest: job.sh DIRECTORY RESULT
# DIRECTORY holds the unpacked job (command.sh, repo/); the result, a tar of the exit status and repo/out, is written
# to RESULT, a file or a raw disk. What the host shows is what stands between the two marks.
job=$1
result=$2
export PATH="${LAB_PYTHON:+$LAB_PYTHON:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONPATH="$job/repo"
ip link set lo up
cd "$job/repo" || exit 1
mkdir -p out
printf '\036job begins\n'
sh "$job/command.sh" </dev/null
echo $? >"$job/status"
tar -cf "$result" -C "$job" status -C repo out || echo "lab: the files in out/ could not all be sent back"
sync
printf '\036job ends\n'
