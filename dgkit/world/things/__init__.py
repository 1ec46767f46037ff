"""Objects of the city, each drawn from a few parameters."""
