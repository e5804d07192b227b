"""What all tests share."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "unit"))  # the helpers (``tiny``, ``shards``), in pytest's importlib mode

# A shell lets what it starts in the background ignore Ctrl-C, and children inherit that: the tests of signals send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
