"""The only user of llama.cpp: typed, owned handles over its C interface."""
