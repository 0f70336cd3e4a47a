"""A world with ground truth: pictures of coloured shapes, drawn by code, said in words, read back by geometry."""
