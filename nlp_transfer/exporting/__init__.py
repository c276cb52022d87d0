"""A saved model as a graph that runs without torch, compared with the model it was made of."""
