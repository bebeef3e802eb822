"""Models of other programs, turned into this project's model folders without running anything they bring along."""
