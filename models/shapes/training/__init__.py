"""How the shapes models are trained: `python -m models.shapes.train`."""
