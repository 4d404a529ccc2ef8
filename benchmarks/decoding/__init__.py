"""Decoding offline: one forward, plain decoding and cascades, batches, start-up, beside peers."""
