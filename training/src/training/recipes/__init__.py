"""Ways to make a model; each becomes one graph with the same input and outputs."""
