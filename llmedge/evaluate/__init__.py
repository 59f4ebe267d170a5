"""What a variant lost against its reference."""
