"""The batching engine: many sequences in one kv cache, in a process of its own."""
