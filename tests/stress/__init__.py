"""Stress suite: kills, two processes at once, full disks and malformed files. Run by ``make stress``."""
