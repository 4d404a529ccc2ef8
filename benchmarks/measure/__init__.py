"""What every benchmark shares: the loop, the machine, processes, rows."""
