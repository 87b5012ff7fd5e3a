"""`asyncllm batch`: files of prompts asked durably, looked at, stopped and written."""
