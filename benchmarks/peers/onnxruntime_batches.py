"""onnxruntime-genai's side of `batches`, run by a Python that has it and not halfbyte.

VENV/bin/python benchmarks/onnxruntime_batches.py MODEL THREADS TOKENS [[PROMPT, ...], ...]
"""

import json
import os
import sys
import time
from pathlib import Path

import onnxruntime_genai as og


def main() -> None:
    """Print tokens per second by batch, as one JSON object."""
    path, threads, tokens, given = sys.argv[1:]
    config = og.Config(path)
    session = {"intra_op_num_threads": int(threads)}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)
    batches = json.loads(given)
    rates = {}
    generate(model, tokenizer, [prompt[:128] for prompt in batches[-1]], int(tokens))
    for prompts in batches:
        began = time.perf_counter()
        generate(model, tokenizer, prompts, int(tokens))
        rates[len(prompts)] = len(prompts) * int(tokens) / (time.perf_counter() - began)
    size = sum(os.path.getsize(file) for file in Path(path).glob("*.onnx.data"))
    print(json.dumps({"tokens_per_second": rates, "version": og.__version__, "bytes": size}))


def generate(model: og.Model, tokenizer: og.Tokenizer, prompts: list[str], tokens: int) -> None:
    """Exactly `tokens` greedy tokens for each prompt, prompts padded to the longest."""
    ids = tokenizer.encode_batch(prompts)
    length = ids.shape()[1] + tokens
    params = og.GeneratorParams(model)
    params.set_search_options(
        batch_size=len(prompts), min_length=length, max_length=length, do_sample=False
    )
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    steps = 0
    while not generator.is_done():
        generator.generate_next_token()
        steps += 1
    if steps != tokens:
        sys.exit(f"{steps} tokens where {tokens} were wanted")


if __name__ == "__main__":
    main()
