"""The door of the room between mmlm and the checkpoints of others."""

from mmlm.interop.exporting import Exported, export_run
from mmlm.interop.fitting import Exportable, exportable
from mmlm.interop.importing import Imported, import_folder

__all__ = ["Exportable", "Exported", "Imported", "export_run", "exportable", "import_folder"]
