"""Control loops that belong to the API server: today the one that writes EndpointSlices."""
