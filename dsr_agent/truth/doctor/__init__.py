"""The doctor: what was gathered about this host, and what it says about the packet's way, stage by stage. Pure."""
