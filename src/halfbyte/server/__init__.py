"""The HTTP server: OpenAI's API over an `AsyncEngine`, metrics, and the playground page."""
