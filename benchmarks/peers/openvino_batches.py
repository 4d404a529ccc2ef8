"""OpenVINO GenAI's side of `batches`, run by a Python that has openvino-genai and not halfbyte.

VENV/bin/python benchmarks/openvino_batches.py MODEL THREADS TOKENS [[PROMPT, ...], ...]
"""

import json
import os
import sys
import time
from pathlib import Path

import openvino_genai


def main() -> None:
    """Print tokens per second by batch, as one JSON object."""
    path, threads, tokens, given = sys.argv[1:]
    pipeline = openvino_genai.LLMPipeline(
        path, "CPU", INFERENCE_NUM_THREADS=int(threads), PERFORMANCE_HINT="LATENCY"
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = int(tokens)
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    rates = {}
    batches = json.loads(given)
    pipeline.generate([prompt[:128] for prompt in batches[-1]], config)
    for prompts in batches:
        began = time.perf_counter()
        pipeline.generate(prompts, config)
        rates[len(prompts)] = len(prompts) * int(tokens) / (time.perf_counter() - began)
    root = Path(path)
    files = [root] if root.is_file() else list(root.glob("*.bin"))
    size = sum(os.path.getsize(file) for file in files)
    print(
        json.dumps(
            {
                "tokens_per_second": rates,
                "version": openvino_genai.__version__,
                "bytes": size,
            }
        )
    )


if __name__ == "__main__":
    main()
