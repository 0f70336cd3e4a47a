"""The arithmetic of the invisible watermark, on whole batches; `models.watermark` is its front."""
