"""What is measured here: perplexity, agreement, acceptance, identity; other tasks are harness/."""
