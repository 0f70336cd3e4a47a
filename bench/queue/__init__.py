"""Claims, time slices, statuses and whole jobs of the queue, alone and beside peers."""
