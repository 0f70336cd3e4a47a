"""Safety policies of batches that change: images are blocked and freed by stored scores; files in quarantine."""
