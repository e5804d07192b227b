"""What all tests share."""

import signal

# A shell lets what it starts in the background ignore Ctrl-C, and children inherit that: the tests of signals send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
