"""This machine: cores, memory, limits, load, sensors, processes; every call to the system."""
