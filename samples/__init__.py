"""Draws the sample photos that come with the repository: synthetic cars, clean and dirty."""
