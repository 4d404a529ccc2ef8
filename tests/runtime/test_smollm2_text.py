"""SmolLM2-135M's greedy text at `f32` is transformers' greedy text, 128 tokens on five prompts.

Transformers reads the same GGUF file itself. It is shown our whole text at once and must choose
every next token as we did; each choice follows the same prefix, so that is its own greedy text.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from halfbyte.config import Level
from halfbyte.importers.demo_model import demo_model
from halfbyte.importers.resolve import open_weights
from halfbyte.runtime.native import NativeRuntime
from tests.exactness.driver import Driver, Request

PROMPTS = [
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "The three laws of motion say that",
    "Question: A train travels 60 km in 45 minutes. What is its speed in km/h?\nAnswer:",
    "<|im_start|>user\nWrite a short poem about rain.<|im_end|>\n<|im_start|>assistant\n",
]
TOKENS = 128


@pytest.fixture(scope="module")
def gguf() -> Path:
    """The demo model's file, which set-up has put into the cache, or the one the variable names."""
    named = os.environ.get("HALFBYTE_TEST_GGUF")
    return Path(named) if named else demo_model()


def test_greedy_text_at_f32_equals_transformers(gguf: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    prompts = [tokenizer(p, add_special_tokens=False)["input_ids"] for p in PROMPTS]
    runtime = NativeRuntime(open_weights(gguf, dense=True), num_tokens=1024, kv_dtype="f32")
    requests = [Request(p, TOKENS) for p in prompts]
    Driver(runtime, Level.parse("f32")).run(requests)
    del runtime

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    model.eval()
    for request in requests:
        text = torch.tensor([request.prompt + request.tokens])
        with torch.no_grad():
            logits = model(text).logits[0, len(request.prompt) - 1 : -1]
        assert logits.argmax(dim=-1).tolist() == request.tokens
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        theirs = logprobs[torch.arange(TOKENS), torch.tensor(request.tokens)].numpy()
        assert np.abs(theirs - np.array(request.logprobs)).max() <= 2e-4
