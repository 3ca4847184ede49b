"""What a packet would meet here: whether somebody listens for it. Pure, and nothing waits."""
