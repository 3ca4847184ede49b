"""The guard: which packets may enter a tunnel and come out of one, as rules of nftables. Pure."""
