"""The routes of Anthropic's API: its bodies, replies and streams, and what answers them."""
