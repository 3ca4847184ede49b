"""The tests. A package, so that it is found before the ``tests`` that tacacs_plus brings along."""
