"""dsr-agent keeps a real server behind a Direct Server Return load balancer able to answer."""

__version__ = "0.1.0"
