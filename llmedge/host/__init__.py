"""This machine: cores, memory, limits, load, sensors and child processes; every call to the operating system."""
