"""Builders of worlds in few words, shipped so that users of the library may test with them too."""
