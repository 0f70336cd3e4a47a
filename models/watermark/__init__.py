"""The invisible watermark, computed on whole batches; `codec` is the public interface."""
