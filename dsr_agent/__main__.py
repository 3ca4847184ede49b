"""``python3 -m dsr_agent``."""

import sys

from dsr_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
