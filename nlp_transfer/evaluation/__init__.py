"""From predictions to honest numbers beside floors."""
