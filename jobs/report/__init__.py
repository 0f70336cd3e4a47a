"""What happened since a moment: batches, failures, workers and what was used, for the report of a night."""
