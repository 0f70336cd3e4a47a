"""A synthetic domain with ground truth: pictures of coloured shapes, drawn by code, captioned, and read by geometry."""
