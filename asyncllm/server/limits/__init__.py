"""When a call may begin, and what it came to."""
