"""Requests on their way: sequences, pages, what runs next."""
