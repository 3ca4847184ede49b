"""The user's file: read, refused in words an operator can act on, and said in kernel terms."""

from dsr_agent.config.loading import Loaded, load, netns_of
from dsr_agent.config.settings import Settings

__all__ = ["Loaded", "Settings", "load", "netns_of"]
