"""What a packet would meet: the self-test through the real tunnels, and what its results mean."""
