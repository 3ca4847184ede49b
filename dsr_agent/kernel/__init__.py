"""The only door to the host: `port.Kernel` is the protocol, `host.Host` the real thing behind it."""
