"""Control loops that belong to the API server: EndpointSlices, Endpoints, and who of several servers runs them."""
