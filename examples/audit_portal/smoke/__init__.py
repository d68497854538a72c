"""Smoke tests of a deployed audit portal: they read, never write, and need nothing but Python."""
