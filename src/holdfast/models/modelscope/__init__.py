"""ModelScope's text-to-video family."""
