"""Land covers: the code of a cell's surface, shared by the optical and the radar renderer."""

from __future__ import annotations

COVERS: tuple[str, ...] = (
    "water", "grass", "crop", "bare", "sand", "forest", "asphalt", "concrete",
    "roof", "tile", "metal", "rock", "snow", "solar", "track", "paint",
)
"""Names of the land covers; a cover's index is its ``uint8`` code.

``roof`` is a flat bitumen or gravel roof, ``tile`` a pitched clay roof, ``metal`` sheds, tanks, ships, aircraft and
containers, ``track`` a synthetic running track, ``paint`` a road or pitch marking.
"""

CODE: dict[str, int] = {name: code for code, name in enumerate(COVERS)}
"""The ``uint8`` code of each cover name."""

SEASONS: tuple[str, ...] = ("spring", "summer", "autumn", "winter")
"""The four seasons of a scene."""
