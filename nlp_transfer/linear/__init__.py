"""Linear layers on fixed features, solved or from the means of classes; it knows neither encoders nor texts."""
