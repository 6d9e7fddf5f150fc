"""Figures of finished trainings."""
