"""Procedural scenes whose geometry, cameras and visibility are known exactly."""

from prob3r.rooms.dataset import Rooms
from prob3r.rooms.source import open_rooms
from prob3r.scenes.contact_sheet import contact_sheet

__all__ = ["Rooms", "contact_sheet", "open_rooms"]
