"""Plan runs on hardware you don't have: compile their steps from shapes, and count memory, communication and time."""
