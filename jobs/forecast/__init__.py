"""When a batch that isn't submitted yet would end: measured times of images, workers, work ahead, a simulated queue."""
