"""The door of the room between mmlm and the checkpoints of others."""

from mmlm.interop.importing import Imported, import_folder

__all__ = ["Imported", "import_folder"]
