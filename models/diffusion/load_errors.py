"""What reading a checkpoint's files raises when they are damaged or of another kind."""

from safetensors import SafetensorError

UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError)
