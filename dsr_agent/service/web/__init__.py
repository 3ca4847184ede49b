"""HTTP, in a thread of its own: sockets, connections, and what is answered to a path."""
