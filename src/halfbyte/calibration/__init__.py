"""A source, a scheme and some text -> a checkpoint, layer by layer through the runtime."""
