"""From a model's name to a checked file and the memory that it needs."""
