"""A small OpenAI-compatible endpoint."""
