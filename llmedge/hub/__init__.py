"""The Hugging Face Hub: what a repository holds, and its bytes from any place on."""
