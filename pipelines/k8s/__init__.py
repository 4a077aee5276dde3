"""Runs on Kubernetes: their manifests, what goes there and comes back, and what is wrong there. Imported only when used."""
