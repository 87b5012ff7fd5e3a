"""The route of OpenAI's Responses API: its bodies, replies and streams, and what answers them. Nothing is stored."""
