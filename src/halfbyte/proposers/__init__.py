"""What proposes tokens: a level, another model, n-grams, a draft head, a stage in the middle."""
