"""Other engines: how they are built and asked for a number."""
