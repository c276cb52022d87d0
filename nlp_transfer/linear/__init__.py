"""Linear layers on fixed features, solved exactly; what knows neither encoders nor texts."""
