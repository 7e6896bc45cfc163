"""What can be measured of a model: one file per measure."""
