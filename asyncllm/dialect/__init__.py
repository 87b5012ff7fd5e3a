"""OpenAI's wire format and the nouns, each way: pure, shared by the server and the OpenAI-family backends.

Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings, models), with what compatible
servers are seen to do differently. `requests` writes what is sent, `replies` reads a whole reply, `streams` reads a
reply as it comes. `lenient` and `mending` put up with what servers get wrong in either. From the server's side,
`served` reads what is asked, `answers` and `faults` write what it gets, and `outcomes` reads files of results.
"""

from asyncllm.dialect.messages import message_from_dict, tool_from_dict
from asyncllm.dialect.replies import read_embeddings, read_models, read_reply
from asyncllm.dialect.requests import Flavor, write_chat, write_completion, write_embeddings
from asyncllm.dialect.streams import ReplyStream

__all__ = [
    "Flavor",
    "ReplyStream",
    "message_from_dict",
    "read_embeddings",
    "read_models",
    "read_reply",
    "tool_from_dict",
    "write_chat",
    "write_completion",
    "write_embeddings",
]
