"""The arithmetic of the invisible watermark, on whole batches; `codec` is its front."""
