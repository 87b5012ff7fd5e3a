"""OpenAI's Responses API and the nouns, each way: a second dialect of the same servers, as pure as the first.

Source: https://platform.openai.com/docs/api-reference/responses and its streaming events. `requests` writes what is
sent, `replies` reads a whole reply, `streams` reads typed events as they come.

What a conversation is here: a list of items. Messages keep their places in it, system ones included, so that nothing
depends on the separate field `instructions` (which travels in `extra`, as `previous_response_id`, `conversation`,
`truncation` and the tools that OpenAI runs itself do). A response is not stored (`store` is false) unless `extra` says
otherwise, and a model's thinking comes back as items in `Message.reasoning_blocks`, to be sent again as they are: those
that are sealed, which they are where a call sets `reasoning_effort`, or that have their text. Others are known to a
store alone.
"""

from asyncllm.dialect.responses.replies import read_response
from asyncllm.dialect.responses.requests import SUPPORTED, write_response
from asyncllm.dialect.responses.streams import ResponseStream

__all__ = ["ResponseStream", "SUPPORTED", "read_response", "write_response"]
