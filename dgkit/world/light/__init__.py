"""Light, weather, surfaces and cameras of the city."""
