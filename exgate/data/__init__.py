"""Text to tensors: sources of documents (`text`), tokenizers (`tokens`), windows for training (`packing`)."""
