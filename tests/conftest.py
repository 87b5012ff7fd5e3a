"""What every test can count on."""

import signal

# A shell that starts a command in the background has it ignore Ctrl-C, and what it starts in turn: the tests of
# interrupts would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
