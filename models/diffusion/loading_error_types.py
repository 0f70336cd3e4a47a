"""Exceptions raised when a checkpoint's files are damaged or of another kind."""

from safetensors import SafetensorError

UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError)
