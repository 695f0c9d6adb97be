"""Planning for models that are too small to plan for themselves."""
