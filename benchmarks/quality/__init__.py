"""What formats, levels and schemes cost in quality."""
