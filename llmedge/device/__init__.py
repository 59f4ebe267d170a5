"""What devices are and how fast they would be, from data alone."""
