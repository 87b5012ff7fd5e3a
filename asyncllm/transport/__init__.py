"""HTTP for all backends of a client, over aiohttp, which nothing else imports.

pool         the sessions of one client, from its first call to its end
exchange     one call: sending it, following it, reading its reply
connection   one connection, and what aiohttp does not tell about it
inflate      bodies that come compressed though nobody asked for it
failures     which error each failure is
fetch        what strangers name, fetched from the public network alone
addresses    which network that is
"""

from asyncllm.transport.pool import AiohttpTransport

__all__ = ["AiohttpTransport"]
