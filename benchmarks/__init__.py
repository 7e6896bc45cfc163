"""One file per question, side by side with peers: `make bench` runs them all."""
