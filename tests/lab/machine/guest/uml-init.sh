#!/bin/sh
# The first process in user-mode Linux. The root is the host's image directory, read-only; everything written goes
# to an overlay in memory.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
modprobe overlay
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || exec poweroff -f
cd /mnt/root || exec poweroff -f
mount --move /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t debugfs debugfs sys/kernel/debug 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p dev/pts dev/shm run/lab run/lock
mount -t devpts devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
tar -xf /mnt/root/dev/ubda -C run/lab
# shellcheck disable=SC2016
exec chroot . /bin/sh -c 'hostname guest; sh /run/lab/job.sh /run/lab /dev/ubdb; exec poweroff -f'
