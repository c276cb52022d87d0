"""Linear layers on fixed features: convex problems solved exactly, and class means."""
