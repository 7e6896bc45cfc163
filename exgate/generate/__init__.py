"""Writing with a model: token by token (`sampling`), as text (`text`), and where it stopped (`session`)."""
