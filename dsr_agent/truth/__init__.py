"""What a packet would meet here: the self-test through the real tunnels, and who listens. Pure but for `trial`."""
