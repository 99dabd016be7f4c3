"""What belongs to an event loop: deadlines, turns, waiting, polling, memory that is counted."""
