"""What a run will need on devices that are not here: its steps compiled from shapes alone, and counted."""
