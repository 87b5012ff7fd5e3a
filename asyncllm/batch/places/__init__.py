"""Where inputs are read from and outputs are written to."""
