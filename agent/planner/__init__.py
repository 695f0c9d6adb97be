"""The planner: routes for every turn, and the steps of models that are too small to choose them."""
