"""Real kernels for the tests: one job format, three ways to run it.

A job is a copy of the repository, a command, what comes back in ``out/`` and the command's exit status. It runs in
user-mode Linux (``uml``), in a Debian machine under qemu (``qemu``), or on this host's own kernel (``here``).
"""
