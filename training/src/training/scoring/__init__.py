"""How good models are, and whether a graph is the model that it was made from."""
