"""Which proposer and how many tokens, by measured cost and acceptance."""
