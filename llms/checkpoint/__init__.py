"""A checkpoint on the disk: written whole, checked before it is trusted, read into a model."""
