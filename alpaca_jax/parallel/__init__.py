"""Devices as a named mesh, and the one table from a parameter's logical axes to that mesh."""
