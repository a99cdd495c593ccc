"""Procedural scenes whose geometry, cameras and visibility are known exactly."""

from prob3r.rooms.dataset import Rooms
from prob3r.rooms.sheet import contact_sheet
from prob3r.rooms.source import open_rooms

__all__ = ["Rooms", "contact_sheet", "open_rooms"]
