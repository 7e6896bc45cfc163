"""The LSTM family in PyTorch: the cells, the models, and what people do with them."""
