"""What machine this is, as its system and its drivers tell it."""
