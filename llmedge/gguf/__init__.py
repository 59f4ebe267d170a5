"""GGUF files as data: headers, quant types, mixes, importance matrices. Never loads weights."""
