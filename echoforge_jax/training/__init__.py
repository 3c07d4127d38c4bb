"""State, step, losses, schedules, loop and checkpoints."""
