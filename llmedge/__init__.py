"""llmedge takes a language model to the device it has to run on."""

__version__ = "0.1.0"
