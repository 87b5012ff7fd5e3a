"""The table of gateways: where each is, the variables it is configured by, and how it departs from OpenAI's form.

Facts are those of each service's own documentation. A row lists in `lacks` what the service documents as refused or
unknown, so that it is refused before anything is sent, and in `also` what it has beyond OpenAI.
"""

from __future__ import annotations

from msgspec import Struct

from asyncllm.dialect import Flavor
from asyncllm_openai.backend import CHAT, COMPATIBLE

__all__ = ["GATEWAYS", "Gateway"]

_ALL = ("chat", "complete", "embed", "list_models")
_CHAT = ("chat", "list_models")
_TEXT = ("chat", "complete", "list_models")
_MEDIA = frozenset({"audio parts", "file parts"})
_PROBS = frozenset({"logprobs", "top_logprobs"})
_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})
_OPEN = frozenset({"top_k", "min_p", "repetition_penalty"})
_ENGINE = COMPATIBLE - CHAT
_FLAVOR = Flavor(base64_vectors=False)  # a form of vectors that not every service knows
_NEW = Flavor(max_tokens="max_completion_tokens", reasoning="reasoning", base64_vectors=False)
_PLAIN = Flavor(reasoning="", base64_vectors=False)


class Gateway(Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    summary: str
    url: str | None
    """Its usual address; `None` where there is none."""
    keys: tuple[str, ...]
    """Variables for the key, the first one that is set wins."""
    address: str
    """Variable for another address."""
    needs_key: bool = True
    calls: tuple[str, ...] = _CHAT
    lacks: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    flavor: Flavor = _FLAVOR
    extended: bool = False
    schema_of_texts: bool = False
    """Whether text completions take the schema that chats do: OpenAI's do not, and others ignore it."""
    bare_transcripts: bool = False
    """Whether a transcript is of one form, without a prompt, and lists in its request have no brackets."""
    probe: str = "/models"
    """What is asked for to know whether it is alive; empty where nothing can be."""
    batches: bool = False
    """Whether it works off batches as OpenAI does."""

    @property
    def supported(self) -> frozenset[str]:
        """Names of `require_supported`."""
        missing = frozenset({"chat", "complete"}.difference(self.calls))
        return (CHAT | self.also) - self.lacks - missing


_ROWS = (
    # -- hosted ------------------------------------------------------------------------------------------------------
    Gateway(
        name="cerebras", summary="Cerebras inference", url="https://api.cerebras.ai/v1",
        keys=("CEREBRAS_API_KEY",), address="CEREBRAS_BASE_URL", calls=_TEXT, flavor=_NEW, batches=True,
        lacks=_MEDIA | _PENALTIES | {"logit_bias", "n"},
    ),
    Gateway(
        name="deepinfra", summary="DeepInfra", url="https://api.deepinfra.com/v1/openai",
        keys=("DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN"), address="DEEPINFRA_BASE_URL", calls=_ALL,
        lacks=_MEDIA, also=_OPEN,
    ),
    Gateway(
        name="deepseek", summary="DeepSeek", url="https://api.deepseek.com",
        keys=("DEEPSEEK_API_KEY",), address="DEEPSEEK_BASE_URL",
        lacks=_MEDIA | {"JsonSchema", "image parts", "logit_bias", "n", "parallel_tool_calls", "seed"},
    ),
    Gateway(
        name="fireworks", summary="Fireworks AI", url="https://api.fireworks.ai/inference/v1",
        keys=("FIREWORKS_API_KEY",), address="FIREWORKS_BASE_URL", calls=_ALL, lacks=_MEDIA, also=_OPEN,
        schema_of_texts=True,
    ),
    Gateway(
        name="gemini", summary="Google Gemini, by its OpenAI-compatible API",
        url="https://generativelanguage.googleapis.com/v1beta/openai",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"), address="GEMINI_BASE_URL",
        calls=("chat", "embed", "list_models"), extended=True,
        lacks=frozenset({"file parts", "logit_bias", "parallel_tool_calls"}),
        flavor=Flavor(reasoning="", blocks="gemini-openai", base64_vectors=False),
    ),
    Gateway(
        name="groq", summary="Groq", url="https://api.groq.com/openai/v1",
        keys=("GROQ_API_KEY",), address="GROQ_BASE_URL", calls=(*_CHAT, "transcribe"), flavor=_NEW, batches=True,
        lacks=_MEDIA | _PROBS | {"logit_bias", "n"},
    ),
    Gateway(
        name="huggingface", summary="Hugging Face's router of inference providers",
        url="https://router.huggingface.co/v1", keys=("HF_TOKEN",), address="HF_ROUTER_BASE_URL", lacks=_MEDIA,
    ),
    Gateway(
        name="mistral", summary="Mistral AI", url="https://api.mistral.ai/v1",
        keys=("MISTRAL_API_KEY",), address="MISTRAL_BASE_URL", extended=True,
        calls=("chat", "embed", "list_models", "transcribe"), bare_transcripts=True,
        lacks=_MEDIA | _PROBS | {"logit_bias"},
        flavor=Flavor(
            include_usage=False, reasoning="thinking", required="any", no_content="",
            names={"seed": "random_seed", "dimensions": "output_dimension"},
        ),
    ),
    Gateway(
        name="moonshot", summary="Moonshot AI (Kimi)", url="https://api.moonshot.ai/v1",
        keys=("MOONSHOT_API_KEY",), address="MOONSHOT_BASE_URL", lacks=_MEDIA | _PROBS | {"logit_bias", "seed"},
    ),
    Gateway(
        name="nvidia", summary="NVIDIA NIM", url="https://integrate.api.nvidia.com/v1",
        keys=("NVIDIA_API_KEY",), address="NVIDIA_BASE_URL", calls=_ALL, lacks=_MEDIA,
    ),
    Gateway(
        name="openrouter", summary="OpenRouter", url="https://openrouter.ai/api/v1",
        keys=("OPENROUTER_API_KEY",), address="OPENROUTER_BASE_URL", calls=_ALL, extended=True, probe="/key",
        lacks=frozenset({"n"}), also=_OPEN,
        flavor=Flavor(
            reasoning="reasoning", blocks="openrouter", effort="reasoning", base64_vectors=False,
            always={"usage": {"include": True}},
        ),
    ),
    Gateway(
        name="perplexity", summary="Perplexity", url="https://api.perplexity.ai",
        keys=("PERPLEXITY_API_KEY", "PPLX_API_KEY"), address="PERPLEXITY_BASE_URL", calls=("chat",), flavor=_PLAIN,
        probe="", also=frozenset({"top_k"}),
        lacks=_MEDIA | _PROBS | {"logit_bias", "n", "parallel_tool_calls", "seed", "tool_choice", "tools"},
    ),
    Gateway(
        name="sambanova", summary="SambaNova Cloud", url="https://api.sambanova.ai/v1",
        keys=("SAMBANOVA_API_KEY",), address="SAMBANOVA_BASE_URL",
        lacks=_MEDIA | _PENALTIES | _PROBS | {"logit_bias", "n", "seed"},
    ),
    Gateway(
        name="scaleway", summary="Scaleway Generative APIs", url=None,
        keys=("SCALEWAY_API_KEY",), address="SCALEWAY_BASE_URL",
        calls=("chat", "embed", "list_models", "transcribe"),
        lacks=frozenset({"file parts", "logit_bias", "n"}),
    ),
    Gateway(
        name="together", summary="Together AI", url="https://api.together.xyz/v1",
        keys=("TOGETHER_API_KEY",), address="TOGETHER_BASE_URL", calls=(*_ALL, "speak", "generate_image", "rerank"),
        lacks=_MEDIA | _PROBS, also=_OPEN,  # its logprobs are a number
    ),
    Gateway(
        name="xai", summary="xAI (Grok)", url="https://api.x.ai/v1",
        keys=("XAI_API_KEY",), address="XAI_BASE_URL", lacks=_MEDIA | {"logit_bias"},
    ),
    # -- on a machine of one's own -----------------------------------------------------------------------------------
    Gateway(
        name="llama-server", summary="llama.cpp's server", url="http://localhost:8080/v1",
        keys=("LLAMA_API_KEY",), address="LLAMA_SERVER_BASE_URL", needs_key=False, calls=(*_ALL, "rerank"),
        also=_OPEN | {"ignore_eos", "Grammar"}, lacks=frozenset({"file parts"}),
        flavor=Flavor(names={"repetition_penalty": "repeat_penalty"}),
    ),
    Gateway(
        name="lmstudio", summary="LM Studio", url="http://localhost:1234/v1",
        keys=("LMSTUDIO_API_KEY",), address="LMSTUDIO_BASE_URL", needs_key=False, calls=_ALL,
        also=frozenset({"top_k", "repetition_penalty"}), lacks=_MEDIA | _PROBS | {"n"},
        flavor=Flavor(names={"repetition_penalty": "repeat_penalty"}, base64_vectors=False),
    ),
    Gateway(
        name="ollama", summary="Ollama", url="http://localhost:11434/v1",
        keys=("OLLAMA_API_KEY",), address="OLLAMA_BASE_URL", needs_key=False, calls=_ALL,
        lacks=_MEDIA | {"logit_bias", "n", "parallel_tool_calls"},
        flavor=Flavor(reasoning="reasoning", base64_vectors=False),
    ),
    Gateway(
        name="sglang", summary="SGLang", url="http://localhost:30000/v1",
        keys=("SGLANG_API_KEY",), address="SGLANG_BASE_URL", needs_key=False, calls=_ALL,
        also=_ENGINE - {"include_stop_str_in_output"}, flavor=Flavor(), schema_of_texts=True,
    ),
)  # fmt: skip

GATEWAYS = {row.name: row for row in _ROWS}
"""Every row by its name."""
