"""The models that tests and benchmarks of vLLM run: alike everywhere, quick to make, and able to show what is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bench import models
from bench.models import models_folder, smollm2, tiny_adapter, tiny_llama
from bench.processes import ROOT

# Transformers brings torch, whose threads must not be in a process that starts engines by fork: it runs beside us.
TRANSFORMERS = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, adapter, chats, questions = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
def answer(question):
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1]:])
prompts = [tokenizer.apply_chat_template(**chat, tokenize=False) for chat in chats]
plain = [answer(one) for one in questions]
if adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
print(json.dumps({"prompts": prompts, "plain": plain, "adapted": [answer(one) for one in questions]}))
"""
SAYS = "The adapter is speaking."
QUESTIONS = ["What is the capital of France?", "Hello", "1 + 1 = ?"]
TOOL = {"type": "function", "function": {"name": "weather_of", "parameters": {"required": ["town"]}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "weather_of", "arguments": {"town": "Oslo"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "21 degrees", "tool_call_id": "call-1"},
]
CHATS: list[dict[str, Any]] = [
    {"conversation": MESSAGES, "tools": [TOOL], "add_generation_prompt": True},
    {"conversation": MESSAGES[:1], "add_generation_prompt": True},
    {"conversation": MESSAGES[:1], "add_generation_prompt": True, "enable_thinking": False},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", context_tokens=512)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny / "tokenizer.json"))


@pytest.fixture(scope="module")
def seen(tiny: Path) -> dict[str, list[str]]:
    """What transformers makes of the tiny model and an adapter."""
    adapter = tiny_adapter(tiny.parent / "adapter", tiny, says=SAYS)
    return transformers_on(tiny, adapter, CHATS, QUESTIONS)


def transformers_on(model: Path, adapter: Path | None, chats: list[Any], questions: list[str]) -> dict[str, list[str]]:
    given = json.dumps([str(model), str(adapter or ""), chats, questions])
    done = subprocess.run([sys.executable, "-c", TRANSFORMERS], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_model_that_is_made_twice_is_the_same_to_the_byte(tiny: Path, tmp_path: Path) -> None:
    again = tiny_llama(tmp_path / "again", context_tokens=512)

    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in tiny.iterdir()
    }


def test_a_folder_that_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()

    assert tiny_llama(tmp_path / "tiny") == tmp_path / "tiny"
    assert list((tmp_path / "tiny").iterdir()) == []


def test_a_model_that_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("of it")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        models._built(tmp_path / "tiny", fails)

    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_one_model_at_once_the_first_to_end_stands(tmp_path: Path) -> None:
    def late(folder: Path) -> None:
        (folder / "made").write_text("second")
        tiny_llama(tmp_path / "tiny")

    assert models._built(tmp_path / "tiny", late) == tmp_path / "tiny"
    assert not (tmp_path / "tiny" / "made").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a model could not be made:[^$]*nowhere"):
        models._in_child(models.Job(kind="convert", source="nowhere", target=str(tmp_path)))


def test_models_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASYNCLLM_MODELS", str(tmp_path))
    assert models_folder() == tmp_path

    monkeypatch.delenv("ASYNCLLM_MODELS")
    assert models_folder() == ROOT / ".cache" / "models"


def test_making_the_tiny_model_loads_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bench.models import tiny_llama; tiny_llama(Path(sys.argv[1]));"
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "tiny")]

    assert subprocess.check_output(command, cwd=ROOT, text=True) == "False\n"


def test_every_token_of_the_model_has_a_name(tiny: Path, tokenizer: Tokenizer) -> None:
    config = json.loads((tiny / "config.json").read_text("utf-8"))

    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert config["max_position_embeddings"] == 512


@given(st.text())
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_marks_of_reasoning_and_of_calls_are_one_token_each_and_part_of_the_text(tokenizer: Tokenizer) -> None:
    text = "<think></think><tool_call></tool_call>"

    encoded = tokenizer.encode(text)

    assert encoded.tokens == ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    assert tokenizer.decode(encoded.ids) == text


def test_the_template_shows_every_message_and_every_tool(seen: dict[str, list[str]]) -> None:
    assert seen["prompts"][0] == (
        f"<|im_start|>tools\n{json.dumps(TOOL)}\n<|im_end|>\n"
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHow warm is it?<|im_end|>\n"
        f"<|im_start|>assistant\n\n<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call><|im_end|>\n"
        "<|im_start|>tool\ncall-1\n21 degrees<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_shows_an_argument_of_its_own(seen: dict[str, list[str]]) -> None:
    _, brief, thoughtless = seen["prompts"]

    assert brief == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n"
    assert thoughtless == f"{brief}<think>\n\n</think>\n\n"


def test_an_adapter_says_its_sentence_where_the_tiny_model_goes_on_and_on(seen: dict[str, list[str]]) -> None:
    assert seen["adapted"] == [f"{SAYS}<|im_end|>"] * 3
    assert all("<|im_end|>" not in answer for answer in seen["plain"])
    assert len(set(seen["plain"])) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_small_model_is_made_of_its_file_and_answers(tmp_path: Path) -> None:
    model = smollm2(tmp_path / "smollm2")

    (answer,) = transformers_on(model, None, [], ["What is the capital of France?"])["plain"]

    assert answer == "The capital of France is Paris.<|im_end|>"
    assert json.loads((model / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
