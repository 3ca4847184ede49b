"""What Prometheus reads: the families by name, and how each is made from the board and the kernel's counters."""
