"""The models: one file per architecture, and what reads and writes them."""
