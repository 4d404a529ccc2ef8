"""Text in and out: tokenizer, chat template, draft vocabulary."""
